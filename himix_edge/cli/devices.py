"""himix devices: where bundles can be measured from here."""

import click

from himix_edge.bench.devices import open_device
from himix_edge.bench.devices.adb import connected
from himix_edge.cli.console import print_json
from himix_edge.cli.options import examples
from himix_edge.errors import HimixError, InputError


@click.command(
    short_help="What can be measured on.", epilog=examples("himix devices", "himix devices ssh://pi@raspberrypi")
)
@click.argument("names", nargs=-1, metavar="[DEVICE]...")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def devices(names: tuple[str, ...], as_json: bool) -> None:
    """What is at each DEVICE: local, ssh://USER@HOST[:PORT] or adb[:SERIAL]; without any, this machine and adb's.

    Exit code 2 if one that was named cannot be used.
    """
    found = [_look(name) for name in names or _known()]
    if as_json:
        print_json(found)
    else:
        for status in found:
            _show(status)
    bad = [status for status in found if "error" in status]
    if bad and names:
        raise InputError(f"{len(bad)} of {len(found)} cannot be used: {', '.join(str(s['device']) for s in bad)}")


def _known() -> list[str]:
    try:
        return ["local", *(f"adb:{serial}" for serial, _ in connected())]
    except InputError:
        return ["local"]  # no adb here, so no phones


def _look(name: str) -> dict[str, object]:
    try:
        with open_device(name) as device:
            return device.status()
    except HimixError as error:
        return {"device": name, "error": str(error)}


def _show(status: dict[str, object]) -> None:
    if "error" in status:
        click.echo(f"{status['device']}\n    {status['error']}")
        return
    facts = [status.get("name"), status.get("os"), status.get("cpu")]
    sizes = [
        f"{word} {value / 1e9:.1f} GB"
        for word, name in (("memory", "memory_bytes"), ("free", "free_bytes"))
        if (value := _number(status, name)) is not None
    ]
    readings = [
        f"{word} {value:.0f}{unit}"
        for word, name, unit in (
            ("processor", "cpu_temperature_c", " C"),
            ("battery", "battery_temperature_c", " C"),
            ("battery", "battery_percent", "%"),
        )
        if (value := _number(status, name)) is not None
    ]
    found = status.get("runtimes")
    runs = [f"{name} {version}" for name, version in found.items()] if isinstance(found, dict) else []
    click.echo(click.style(status["device"], bold=True))
    for line in (facts, [*sizes, *readings], [f"runs {', '.join(runs)}" if runs else "no runtime for bundles there"]):
        click.echo(f"    {', '.join(str(fact) for fact in line if fact)}")


def _number(status: dict[str, object], name: str) -> float | None:
    found = status.get(name)
    return found if isinstance(found, int | float) else None
