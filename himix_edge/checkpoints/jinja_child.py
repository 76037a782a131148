"""Renders a chat template of somebody else's in a process of its own: run by its path, it imports nothing of ours.

Standard input: {"template", "special", "date", "renders": [{"messages", "add_generation_prompt"}]}. Standard output: a
list of {"text"} or {"error"}. Jinja's sandbox keeps the program from Python, as in transformers; the limits here, and
the parent's on its time, keep it from the machine.
"""

import json
import sys
from typing import Never

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_OUTPUT = 1 << 17  # characters of one rendering
MAX_MEMORY = 1 << 29
MAX_SECONDS = 5


class Generation(jinja2.ext.Extension):
    """transformers' `{% generation %}`, which marks what the assistant said and writes nothing itself."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def main() -> None:
    try:
        import resource
    except ImportError:  # Windows: there the parent's limit on its time remains
        pass
    else:
        for limit, most in ((resource.RLIMIT_CPU, MAX_SECONDS), (resource.RLIMIT_AS, MAX_MEMORY)):
            resource.setrlimit(limit, (most, most))
    job = json.load(sys.stdin)
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **settings: json.dumps(value, ensure_ascii=False, **settings)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: job["date"]
    try:
        template = environment.from_string(job["template"])
        answers = [render(template, {**job["special"], **each}) for each in job["renders"]]
    except Exception as error:
        answers = [{"error": str(error)[:200] or type(error).__name__}] * len(job["renders"])
    json.dump(answers, sys.stdout)


def refuse(message: str) -> Never:
    raise jinja2.TemplateError(message)


def render(template: jinja2.Template, variables: dict[str, object]) -> dict[str, str]:
    written: list[str] = []
    length = 0
    try:
        for piece in template.generate(tools=None, documents=None, **variables):
            written.append(piece)
            length += len(piece)
            if length > MAX_OUTPUT:
                return {"error": "it writes too much"}
    except Exception as error:
        return {"error": str(error)[:200] or type(error).__name__}
    return {"text": "".join(written)}


main()
