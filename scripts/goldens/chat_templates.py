#!/usr/bin/env python3
"""Renders chat templates with Python's Jinja, set up as transformers' apply_chat_template sets it up.

    scripts/goldens/chat_templates.py published TEMPLATE_DIR    writes tests/data/chat_templates/published.json
    scripts/goldens/chat_templates.py language                  writes tests/data/chat_templates/language.json
    scripts/goldens/chat_templates.py render TEMPLATE NAME     prints one conversation, to look at a difference

published: every *.jinja of the directory (scripts/test_data unpacks it; the templates themselves are not part of this
tree) on every conversation of conversations.json. Kept are 16 digits of the output's SHA-256, or "error":
{template: {conversation: digest}}.

language: the snippets of snippets.json, a list of templates over one context. Kept is the output itself, or null for an
error: [{"template", "output"}].

Needs the package jinja2.
"""
import datetime
import hashlib
import json
import os
import pathlib
import sys
import time

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

DATA = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "chat_templates"
NOW = 1767323045  # 2026-01-02 03:04:05 UTC, what strftime_now sees


class Generation(jinja2.ext.Extension):
    """{% generation %}: what it encloses is rendered in a scope of its own."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("enclose"), [], [], body).set_lineno(line)

    def enclose(self, caller):
        return caller()


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def strftime_now(pattern):
        return datetime.datetime.fromtimestamp(NOW).strftime(pattern)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


def compiled(source):
    """The template, or the error that keeps it from being compiled."""
    try:
        return environment().from_string(source)
    except Exception as error:  # Jinja's, or Python's about the code Jinja made
        return error


def render(template, context):
    """The output, or None for an error: the template's own, Jinja's or Python's."""
    if isinstance(template, Exception):
        return None
    try:
        return template.render(**context)
    except Exception as error:
        render.last_error = repr(error)
        return None


def digest(text):
    return "error" if text is None else hashlib.sha256(text.encode()).hexdigest()[:16]


def conversations():
    return json.loads((DATA / "conversations.json").read_text())


def published(folder):
    contexts = conversations()
    result = {}
    for path in sorted(pathlib.Path(folder).glob("*.jinja")):
        template = compiled(path.read_text())
        result[path.stem] = {name: digest(render(template, context)) for name, context in contexts.items()}
    (DATA / "published.json").write_text(json.dumps(result, indent=1) + "\n")


def language():
    data = json.loads((DATA / "snippets.json").read_text())
    outputs = [{"template": source, "output": render(compiled(source), data["context"])} for source in data["templates"]]
    (DATA / "language.json").write_text(
        json.dumps({"context": data["context"], "snippets": outputs}, ensure_ascii=False, indent=1) + "\n")


def main():
    os.environ["TZ"] = "UTC"
    time.tzset()
    if sys.argv[1:2] == ["published"] and len(sys.argv) == 3:
        published(sys.argv[2])
    elif sys.argv[1:] == ["language"]:
        language()
    elif sys.argv[1:2] == ["render"] and len(sys.argv) == 4:
        text = render(compiled(pathlib.Path(sys.argv[2]).read_text()), conversations()[sys.argv[3]])
        print("error: " + render.last_error if text is None else text, end="")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
