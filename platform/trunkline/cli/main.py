"""The command line. Knows everything; what is heavy is imported inside the command that needs it."""

from collections.abc import Callable, Sequence

import typer

from trunkline.cli import contacts, data, lines, numbers, outbound, processes, profiles, webhooks
from trunkline.cli.shared import talk

app = typer.Typer(
    name="trunkline",
    help="A voice agent that answers your telephone. Start with: trunkline demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
_COMMANDS: tuple[Callable[..., None], ...] = (
    processes.demo,
    processes.serve,
    processes.web,
    processes.worker,
    processes.courier,
    processes.guardian,
    processes.sandbox,
    processes.doctor,
    outbound.call,
    lines.route,
    lines.provision,
)
for command in _COMMANDS:
    app.command()(command)
app.add_typer(data.db_app, name="db")
app.add_typer(data.key_app, name="key")
app.add_typer(data.user_app, name="user")
app.add_typer(profiles.profile_app, name="profile")
app.add_typer(numbers.number_app, name="number")
app.add_typer(numbers.block_app, name="block")
app.add_typer(contacts.contacts_app, name="contacts")
app.add_typer(lines.sip_app, name="sip")
app.add_typer(webhooks.webhooks_app, name="webhooks")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; every error we can name becomes one sentence. Returns the exit code."""
    from trunkline.errors import Invalid, Misconfigured, TrunklineError

    try:
        app(args=arguments)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 0
    except (Invalid, Misconfigured) as error:
        return _failed(error, 2)
    except TrunklineError as error:
        return _failed(error, 1)
    except Exception as error:
        from trunkline.kit.asgi import PortTaken
        from trunkline.kit.crypt import CryptError
        from trunkline.kit.db import DatabaseError
        from trunkline.kit.livekit import LiveKitFailed
        from trunkline.kit.processes import ChildDied

        ours = (PortTaken, CryptError, DatabaseError, LiveKitFailed, ChildDied)
        if not isinstance(error, ours):
            raise
        return _failed(error, 1)
    return 0


def _failed(error: Exception, code: int) -> int:
    talk.print(f"trunkline: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
    return code
