"""The variables that can be set, by what they are about; `app.settings.Settings` has them all."""
