"""Settings and the variables that give them: which there are, and none that is misspelt.

pydantic-settings ignores a variable that no field reads, so a misspelt name
would silently leave the default in place. `check_environment` closes that
hole: each service calls it with the environment before it reads its settings.
"""

import difflib
from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from treedraft.core.errors import InvalidRequestError
from treedraft.settings import DELIMITER, ServiceSettings


def check_environment(environ: Mapping[str, str], *settings_classes: type[ServiceSettings]) -> None:
    """Refuse environment variables that look like settings but are read by none.

    Only names with a service's full prefix, double underscore included, are
    looked at: Kubernetes itself sets variables such as
    `TREEDRAFT_DRAFT_SERVICE_HOST` for a service named `treedraft-draft`.

    Raises:
        InvalidRequestError: reason UNKNOWN_SETTING, with the closest name.
    """
    for settings_class in _with_shared_groups(settings_classes):
        prefix = settings_class.model_config.get("env_prefix", "").upper()
        known = {prefix + name for name in _setting_names(settings_class)}
        for variable in sorted(environ):
            if prefix and variable.upper().startswith(prefix) and variable.upper() not in known:
                closest = difflib.get_close_matches(variable.upper(), sorted(known), n=1)
                hint = f"; did you mean {closest[0]}?" if closest else ""
                raise InvalidRequestError(
                    f"no setting is called {variable}{hint}",
                    field=variable,
                    reason="UNKNOWN_SETTING",
                )


def setting_variables(settings: ServiceSettings) -> dict[str, str]:
    """Return the environment variables that give a flat group the values it has by now."""
    prefix = settings.model_config.get("env_prefix", "").upper()
    values = settings.model_dump(mode="json", exclude_defaults=True)
    return {
        prefix + name.upper(): ",".join(value) if isinstance(value, list) else str(value)
        for name, value in values.items()
    }


def _with_shared_groups(
    settings_classes: tuple[type[ServiceSettings], ...],
) -> list[type[ServiceSettings]]:
    # A group with a prefix of its own is read by every service that has it.
    shared = {
        field.annotation
        for settings_class in settings_classes
        for field in settings_class.model_fields.values()
        if isinstance(field.annotation, type) and issubclass(field.annotation, ServiceSettings)
    }
    return [*settings_classes, *sorted(shared, key=lambda group: group.__name__)]


def _setting_names(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name.upper()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for nested in _setting_names(field.annotation):
                yield f"{name.upper()}{DELIMITER}{nested}"
