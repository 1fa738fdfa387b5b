{{- define "imagefleet.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of a part; call with (list $ "web"). */}}
{{- define "imagefleet.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: imagefleet
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "imagefleet.labels" -}}
{{- $root := index . 0 -}}
{{ include "imagefleet.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{/* Who a pod runs as: nobody of the node, and without an account of the cluster. */}}
{{- define "imagefleet.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "imagefleet.container" -}}
imagePullPolicy: {{ .Values.images.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{- define "imagefleet.fleetUrl" -}}
http://{{ include "imagefleet.fullname" . }}-web:8000
{{- end -}}

{{/* A variable out of a Secret; call with (list secret key optional). */}}
{{- define "imagefleet.secret" -}}
- name: {{ index . 1 }}
  valueFrom:
    secretKeyRef:
      name: {{ index . 0 }}
      key: {{ index . 1 }}
      {{- if index . 2 }}
      optional: true
      {{- end }}
{{- end -}}

{{- define "imagefleet.serverEnv" -}}
{{- $secret := .Values.secrets.server -}}
{{- range list "DATABASE_URL" "BROKER_URL" "API_TOKENS" "MACHINE_TOKEN" "SECRET_KEY" "METRICS_TOKEN" }}
{{ include "imagefleet.secret" (list $secret . false) }}
{{- end }}
- name: HOST
  value: 0.0.0.0
- name: PORT
  value: "8000"
- name: A1111_PORT
  value: "7860"
- name: FLEET_URL
  value: {{ include "imagefleet.fleetUrl" . }}
- name: DATA_DIR
  value: /data
{{- if .Values.serverEnv.ALLOWED_HOSTS }}
# Prometheus asks a pod under its address, which would be refused once names are allowed.
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
{{- end }}
{{- range $name, $value := .Values.serverEnv }}
- name: {{ $name }}
  value: {{ ternary (printf "%v,$(POD_IP)" $value) $value (and (eq $name "ALLOWED_HOSTS") (not (empty $value))) | quote }}
{{- end }}
{{- end -}}

{{/* The body of a pod of the server; call with (dict "root" $ "part" "web" "pictures" true "ports" … "probes" …). */}}
{{- define "imagefleet.serverPod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "imagefleet.labels" (list $root .part) | nindent 4 }}
spec:
  {{- include "imagefleet.pod" $root | nindent 2 }}
  terminationGracePeriodSeconds: 40
  {{- if eq .part "web" }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "imagefleet.selector" (list $root .part) | nindent 10 }}
  {{- end }}
  containers:
    - name: {{ .part }}
      image: {{ $root.Values.images.web }}
      args: [{{ .part }}]
      {{- include "imagefleet.container" $root | nindent 6 }}
      env:
        {{- if ne .part "flower" }}
        {{- include "imagefleet.serverEnv" $root | trim | nindent 8 }}
        {{- end }}
        {{- with .env }}
        {{- . | nindent 8 }}
        {{- end }}
      {{- with .port }}
      ports:
        - name: http
          containerPort: {{ . }}
      {{- end }}
      {{- .probes | nindent 6 }}
      {{- if .port }}
      # Requests come for so long after the pod was told to go, until every node knows that it does.
      lifecycle:
        preStop:
          exec:
            command: [sleep, "5"]
      {{- end }}
      resources:
        {{- toYaml (index $root.Values .part).resources | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        - name: data
          mountPath: /data
  volumes:
    - name: tmp
      emptyDir: {}
    - name: data
      {{- if .pictures }}
      persistentVolumeClaim:
        claimName: {{ $root.Values.pictures.existingClaim | default (printf "%s-pictures" (include "imagefleet.fullname" $root)) }}
      {{- else }}
      emptyDir: {}
      {{- end }}
{{- end -}}

{{/* Probes over HTTP. The name is one that ALLOWED_HOSTS always allows; a pod's address is none. */}}
{{- define "imagefleet.httpProbes" -}}
{{- $host := printf "%s-web" (include "imagefleet.fullname" .) -}}
startupProbe:
  httpGet: {path: /health, port: http, httpHeaders: [{name: Host, value: {{ $host }}}]}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /health, port: http, httpHeaders: [{name: Host, value: {{ $host }}}]}
  periodSeconds: 15
  timeoutSeconds: 10
  failureThreshold: 4
readinessProbe:
  httpGet: {path: /ready, port: http, httpHeaders: [{name: Host, value: {{ $host }}}]}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end -}}

{{/* A probe that asks from inside; call with the part's name. */}}
{{- define "imagefleet.execProbe" -}}
livenessProbe:
  exec:
    command: [python, -m, app.healthy, {{ . }}]
  initialDelaySeconds: 60
  periodSeconds: 60
  timeoutSeconds: 20
  failureThreshold: 5
{{- end -}}

{{/* How many jobs wait for a model or are drawn with it, as Prometheus is asked; call with (list $ model). A model without
jobs has no series, and one whose server is not scraped has none either: it is 0 only where the server says anything,
which it does by a series that is always there, and no answer otherwise. */}}
{{- define "imagefleet.demand" -}}
{{- $labels := printf "model=%s,state=~\"queued|processing\"" (index . 1 | quote) -}}
{{- $ours := list -}}
{{- range $label, $value := (index . 0).Values.keda.labels -}}
{{- $labels = printf "%s,%s=%s" $labels $label ($value | quote) -}}
{{- $ours = append $ours (printf "%s=%s" $label ($value | quote)) -}}
{{- end -}}
sum(max by (state) (imagefleet_jobs{ {{- $labels -}} })) or 0 * max(imagefleet_webhooks_owed{ {{- join "," $ours -}} })
{{- end -}}

{{/* A file of this chart; call with (list $ path). They are links to deploy/prometheus and deploy/grafana: what unpacks a
checkout without links leaves nothing of them, or only the name of where they lead. */}}
{{- define "imagefleet.file" -}}
{{- $content := (index . 0).Files.Get (index . 1) -}}
{{- if lt (len $content) 200 -}}
{{- fail (printf "%s is not in this chart: it is a link that got lost on the way. `helm package deploy/chart`, where the links are whole, makes a chart that holds the files" (index . 1)) -}}
{{- end -}}
{{- $content -}}
{{- end -}}
