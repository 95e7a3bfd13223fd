"""Options that stand before a command as well as after it, as with kubectl and istioctl:
``ambientctl -n shop top``.

Groups take them and keep them for the command, which has its own of the same names.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import click

SYSTEM_NAMESPACE: Final = "istio-system"
_KEPT: Final = "ambientctl.global_options"


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        ctx.meta.setdefault(_KEPT, {})[param.name] = value


def _lazily(what: str) -> Any:
    """Of ``ambientctl.completing``, which needs this module."""

    def complete(ctx: click.Context, param: click.Parameter, word: str) -> Any:
        found = getattr(import_module("ambientctl.completing"), what)
        return found(ctx, param, word)

    return complete


def before_commands(*, hidden: bool) -> list[click.Option]:
    """For a group; ``hidden`` leaves them out of its help."""
    how: Any = {"expose_value": False, "callback": _keep, "hidden": hidden}
    return [
        click.Option(
            ["-n", "--namespace"], help="Namespace (default: the context's).",
            shell_complete=_lazily("namespaces"), **how,
        ),
        click.Option(["--context"], help="Context of the kubeconfig.",
                     shell_complete=_lazily("contexts"), **how),
        click.Option(["-c", "--kubeconfig"], help="Path of the kubeconfig.", **how),
        click.Option(
            ["-i", "--istioNamespace", "system"],
            help=f"Namespace of the control plane (default: {SYSTEM_NAMESPACE}).",
            **how,
        ),
        click.Option(["--as", "as_user"], help="User to speak for (impersonation).", **how),
        click.Option(["--as-group", "as_groups"], multiple=True, help="Its group; several.", **how),
        click.Option(["--as-uid", "as_uid"], help="Its UID.", **how),
    ]  # fmt: skip


def kept(name: str) -> Any:
    """What was given before the command; None where nothing was."""
    ctx = click.get_current_context(silent=True)
    return ctx.meta.get(_KEPT, {}).get(name) if ctx else None


system_option = click.option(
    "-i",
    "--istioNamespace",
    "system",
    default=lambda: kept("system") or SYSTEM_NAMESPACE,
    help=f"Namespace of the control plane (default: {SYSTEM_NAMESPACE}).",
)
"""Of commands that ask the control plane."""
