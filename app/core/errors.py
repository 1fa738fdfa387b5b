"""What can go wrong in the domain, in the domain's own words.

    FleetError
    ├── NotFound
    │   ├── ModelNotFound
    │   ├── CheckpointNotFound
    │   ├── EngineNotFound
    │   ├── JobNotFound
    │   ├── ImageNotFound
    │   ├── InputNotFound
    │   ├── MachineNotFound
    │   └── DeliveryNotFound
    ├── Invalid
    │   ├── InvalidSpec
    │   ├── InvalidModel
    │   ├── FileNotFound
    │   └── BasesDiffer
    ├── Conflict
    │   ├── IllegalMove
    │   ├── JobEnded
    │   ├── JobNotEnded
    │   ├── NotReplayable
    │   ├── KeyReused
    │   ├── NotClaimable
    │   ├── StaleAttempt
    │   ├── DeliveryOwed
    │   ├── EngineRunning
    │   ├── NotEnoughMemory
    │   ├── ModelInUse
    │   ├── ModelExists
    │   └── CatalogueReadOnly
    ├── ProtocolNotSpoken
    │   ├── MachineTooOld
    │   └── MachineTooNew
    ├── Unreadable
    ├── TooManyJobs
    └── Unserved

The doors translate these into status codes and wire shapes; nothing here knows HTTP.
"""

from typing import Any, ClassVar


class FleetError(Exception):
    """Something in the fleet went wrong."""

    code: ClassVar[str] = "fleet_error"
    permanent: ClassVar[bool] = True
    """False where trying the same again later could help."""

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.facts = facts


class NotFound(FleetError):
    """There is no such thing."""

    code = "not_found"


class ModelNotFound(NotFound):
    """No model of that id is in the catalogue."""

    code = "model_not_found"


class CheckpointNotFound(NotFound):
    """Checkpoint doesn't exist."""

    code = "checkpoint_not_found"


class EngineNotFound(NotFound):
    """Engine doesn't exist."""

    code = "engine_not_found"


class JobNotFound(NotFound):
    """There is no job of that id."""

    code = "job_not_found"


class ImageNotFound(NotFound):
    """There is no image of that id."""

    code = "image_not_found"


class InputNotFound(NotFound):
    """There is no uploaded picture of that id."""

    code = "input_not_found"


class MachineNotFound(NotFound):
    """No machine of that id has ever checked in."""

    code = "machine_not_found"


class DeliveryNotFound(NotFound):
    """There is no delivery of that id."""

    code = "delivery_not_found"


class Invalid(FleetError):
    """What was asked for can never work."""

    code = "invalid"


class InvalidSpec(Invalid):
    """This order can never be drawn."""

    code = "invalid_spec"


class InvalidModel(Invalid):
    """This catalogue entry can never be provisioned."""

    code = "invalid_model"


class FileNotFound(Invalid):
    """failed to find or download file."""

    code = "file_not_found"


class BasesDiffer(Invalid):
    """base of models are not the same between them."""

    code = "bases_differ"


class Conflict(FleetError):
    """The thing is not in a state that allows this."""

    code = "conflict"


class IllegalMove(Conflict):
    """That state does not follow from the present one."""

    code = "illegal_move"


class JobEnded(Conflict):
    """The job has already ended."""

    code = "job_ended"


class JobNotEnded(Conflict):
    """The job has not ended yet."""

    code = "job_not_ended"


class NotReplayable(Conflict):
    """The job was not completed: there is nothing to hold its replay against."""

    code = "not_replayable"


class KeyReused(Conflict):
    """This idempotency key belongs to another request."""

    code = "idempotency_key_reused"


class NotClaimable(Conflict):
    """The job is not waiting for a machine, or not for this one."""

    code = "not_claimable"


class StaleAttempt(Conflict):
    """This attempt no longer holds the job; whatever it brings is thrown away."""

    code = "stale_attempt"


class DeliveryOwed(Conflict):
    """The event is still on its way, or a later one is."""

    code = "delivery_owed"


class EngineRunning(Conflict):
    """engine is running."""

    code = "engine_running"
    permanent = False


class NotEnoughMemory(Conflict):
    """Not enough VRAM to start."""

    code = "not_enough_memory"
    permanent = False


class MachineAlive(Conflict):
    """The machine is there, or was a moment ago."""

    code = "machine_alive"
    permanent = False


class ModelInUse(Conflict):
    """Jobs, engines or other models need this model."""

    code = "model_in_use"


class ModelExists(Conflict):
    """Another model has this id."""

    code = "model_exists"


class CatalogueReadOnly(Conflict):
    """The catalogue's entry is written elsewhere."""

    code = "catalogue_read_only"


class TooManyJobs(FleetError):
    """As many jobs of this owner wait as may wait."""

    code = "too_many_jobs"
    permanent = False

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message, retry_after=retry_after)
        self.retry_after = retry_after
        """Seconds after which asking again may help."""


class ProtocolNotSpoken(FleetError):
    """This machine and this server would not understand each other."""

    code = "protocol_not_spoken"


class MachineTooOld(ProtocolNotSpoken):
    """The machine speaks a version of the machine protocol that is no longer taken."""

    code = "machine_too_old"


class MachineTooNew(ProtocolNotSpoken):
    """The machine speaks a version of the machine protocol that is not known yet."""

    code = "machine_too_new"


class Unreadable(FleetError):
    """A secret was encrypted with a key that this server does not have."""

    code = "unreadable"


class Unserved(FleetError):
    """No live machine holds this model, and the server is set to refuse such orders."""

    code = "unserved"
    permanent = False
