"""``make smoke``: the tour against the real OpenAI, with its official client.

Costs a fraction of a cent. Without ``OPENAI_API_KEY`` nothing is run, said in one line, exit code
0: nothing was found broken, and nothing was proved either. ``UPSTREAM_BASE_URL`` points it
elsewhere.
"""

import os
import sys

import click
import openai
from openai.types.chat import ChatCompletionUserMessageParam

from proxy.cli.demo import show_event
from proxy.cli.demo_session import Upstream, take

MODEL = os.environ.get("SMOKE_MODEL", "gpt-4.1-mini")


def calls(base_url: str, access_token: str) -> int:
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key=access_token, max_retries=0) as client:
        models = [model.id for model in client.models.list()]
        click.echo(f"\n{len(models)} models, {MODEL} among them: {MODEL in models}")

        question: ChatCompletionUserMessageParam = {"role": "user", "content": "Say hello."}
        answer = client.chat.completions.create(model=MODEL, messages=[question], max_tokens=5)
        click.echo(f"Buffered: {answer.choices[0].message.content!r}")

        click.echo("Streamed: ", nl=False)
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[question],
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                click.echo(chunk.choices[0].delta.content, nl=False)
                sys.stdout.flush()
        click.echo("\n")
    return 3


def main() -> int:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key:
        click.echo("smoke: SKIPPED, nothing was tested: OPENAI_API_KEY is not set.")
        return 0
    where = os.environ.get("UPSTREAM_BASE_URL", "https://api.openai.com")
    try:
        events = take(Upstream(where, key), calls)
    except click.ClickException as error:
        error.show()
        return 1
    except openai.OpenAIError as error:
        click.echo(f"smoke: FAILED: {error}", err=True)
        return 1
    for event in events:
        show_event(event)
    click.echo("\nsmoke: passed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
