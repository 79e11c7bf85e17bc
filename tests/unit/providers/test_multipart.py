"""Form fields as every client writes them; all other ways are refused."""

from email.message import Message

import pytest
import requests

from proxy.core.errors import ClientError
from proxy.providers import multipart
from proxy.providers.multipart import form_fields
from tests.support.loop_probe import served_while

WANTED = frozenset({"model"})
TYPE = "multipart/form-data; boundary=BB"


def part(name: str, value: str, *more: str) -> str:
    disposition = f'Content-Disposition: form-data; name="{name}"'
    return "--BB\r\n" + "\r\n".join([disposition, *more]) + f"\r\n\r\n{value}\r\n"


FILE = part("file", "RIFF\0\r\n\r\nx", "Content-Type: audio/wav").replace(
    '"file"', '"file"; filename="a.wav"'
)
MODEL = part("model", "whisper-1")
END = "--BB--\r\n"


def read(body: str, content_type: str = TYPE) -> dict[str, str]:
    return form_fields(body.encode("latin-1"), content_type, WANTED)


def refused(body: str, content_type: str = TYPE) -> None:
    with pytest.raises(ClientError) as caught:
        read(body, content_type)
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")
    assert str(caught.value)


def test_a_transcription() -> None:
    assert read(FILE + MODEL + END) == {"file": "", "model": "whisper-1"}
    assert read(MODEL + FILE + END[:-2]) == {"file": "", "model": "whisper-1"}
    assert read(FILE + END) == {"file": ""}


def test_as_dot_net_writes_it() -> None:
    body = MODEL.replace('"', "") + FILE.replace('"', "") + END
    assert read(body, 'multipart/form-data; boundary="BB"') == {"model": "whisper-1", "file": ""}


def test_values_are_taken_as_they_are() -> None:
    assert read(part("model", "") + END) == {"model": ""}
    assert read(part("model", "a\r\nb") + END) == {"model": "a\r\nb"}
    assert read(part("model", "m", "Content-Type: text/plain; charset=utf-8") + END)["model"] == "m"
    many = part("x[]", "1") + part("x[]", "2") + MODEL + END
    assert read(many)["model"] == "whisper-1"


def test_as_requests_writes_it() -> None:
    files = {"file": ("ü.wav", b"\0" * 100, "audio/wav"), "model": (None, "whisper-1")}
    sent = requests.Request("POST", "http://x", files=files, data={"a": "b"}).prepare()
    assert isinstance(sent.body, bytes)
    found = form_fields(sent.body, sent.headers["Content-Type"], WANTED)
    assert found == {"a": "", "file": "", "model": "whisper-1"}


BINARY = "Content-Transfer-Encoding: binary"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        # Apache HttpClient, with a charset and without.
        (FILE + MODEL, "multipart/form-data; boundary=BB; charset=UTF-8"),
        (FILE + MODEL, 'multipart/form-data; charset="utf-8"; boundary=BB'),
        (
            part(
                "model",
                "whisper-1",
                "Content-Type: text/plain; charset=ISO-8859-1",
                "Content-Transfer-Encoding: 8bit",
            ),
            TYPE,
        ),
        # multipart-post (Ruby).
        (
            FILE.replace("Content-Type", f"Content-Length: 9\r\n{BINARY}\r\nContent-Type") + MODEL,
            TYPE,
        ),
        # Dart's http.
        (
            part("prompt", "\xc3\xbc", "content-type: text/plain; charset=utf-8", BINARY) + MODEL,
            TYPE,
        ),
        # Names of files as undici and requests write them, and as curl and Go do.
        (FILE.replace('"a.wav"', '"C:\\dir\\a.wav"') + MODEL, TYPE),
        (FILE.replace('"a.wav"', '"a\\"b.wav"') + MODEL, TYPE),
        # Lines that say nothing here.
        (part("x", "1", "Content-ID: <1>", "X-Any: 1", "Content-Encoding: gzip") + MODEL, TYPE),
        (part("x", "eA==", "Content-Transfer-Encoding: base64") + MODEL, TYPE),
        (part("model", "whisper-1", "MIME-Version: 1.0", "Content-Language: en") + FILE, TYPE),
    ],
)
def test_as_other_clients_write_it(body: str, content_type: str) -> None:
    assert read(body + END, content_type)["model"] == "whisper-1"


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=BB; boundary=CC",
        "multipart/form-data; boundary=BB; x=y",
        "multipart/form-data; x=y; boundary=BB",
        "multipart/form-data; boundary*=utf-8''BB",
        "multipart/form-data; boundary=BB, multipart/form-data; boundary=CC",
        'multipart/form-data; boundary="B B"',
        'multipart/form-data; boundary="BB',
        "multipart/form-data; boundary=" + "B" * 71,
    ],
)
def test_odd_boundaries(content_type: str) -> None:
    refused(FILE + MODEL + END, content_type)


def test_boundaries_in_quotes_and_capitals() -> None:
    assert read(MODEL + END, 'Multipart/Form-Data; Boundary="BB"')["model"] == "whisper-1"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "x",
        END,
        MODEL,
        FILE + MODEL + "--BB",
        FILE + MODEL + "--BB-",
        "preamble\r\n" + MODEL + END,
        "\r\n" + MODEL + END,
        MODEL + END + "epilogue",
        MODEL + END + MODEL + END,
        MODEL + END + "\r\n",
        MODEL.replace("--BB\r\n", "--BB \r\n") + END,
        MODEL.replace("\r\n", "\n") + END.replace("\r\n", "\n"),
        MODEL[:-2] + "\n" + END,
        FILE[:-2] + "--BB\r\n" + MODEL + END,
        # A delimiter for those who do not ask for a line break before it.
        part("file", "x--BB\r\n" + MODEL[6:]) + END,
        part("file", "x\n--BB\n" + MODEL[6:]) + END,
        MODEL + MODEL + END,
        MODEL + part("model[]", "other") + END,
        part("model[0]", "m") + END,
        part("_charset_", "utf-7") + MODEL + END,
        MODEL.replace('name="model"', "name=mod el") + END,
        MODEL.replace('name="model"', "name=model[]") + END,
        MODEL.replace('name="model"', "name=model; filename=x") + END,
        MODEL.replace('name="model"', "name='model'") + END,
        MODEL.replace('name="model"', 'name="mod%65l"') + END,
        MODEL.replace('name="model"', 'name="mo\\del"') + END,
        MODEL.replace('name="model"', 'name="x"; name="model"') + END,
        MODEL.replace('name="model"', "name=\"x\"; name*=utf-8''model") + END,
        MODEL.replace('name="model"', 'filename="x"; name="model"') + END,
        MODEL.replace('name="model"', 'name="model"; filename="x"') + END,
        MODEL.replace('name="model"', 'name="model"; filename*=x') + END,
        MODEL.replace("form-data; ", "attachment; ") + END,
        MODEL.replace("Content-Disposition:", "Content-Disposition :") + END,
        part("model", "bW9kZWw=", "Content-Transfer-Encoding: base64") + END,
        part("model", "m", "Content-Type: text/plain; charset=utf-7") + END,
        part("model", "m", "Content-Type: application/json") + END,
        part("model", "m\xa0", "Content-Type: text/plain; charset=ISO-8859-1") + END,
        part("model", "m", "Content-Type: text/plain; charset=utf-16") + END,
        part("model", "m", "Content-Type: text/plain", "Content-Type: text/plain") + END,
        part("model", "bT0=", "content-transfer-encoding: quoted-printable") + END,
        part("model", "m", "Content_Transfer_Encoding: base64") + END,
        part("model", "m", BINARY, "Content-Transfer-Encoding: base64") + END,
        part("model", "m", "Content-Encoding: identity") + END,
        part("x", "m", 'Content_Disposition: form-data; name="model"') + END,
        part("x", "m", "X-Y: a\0b") + END,
        part("x", "m", "X-Y: a\rb") + END,
        part("x", "m", "no colon") + END,
        # One reader's name of a file is another's second name of the part.
        FILE.replace('"a.wav"', '"a\\"; name=\\"model"') + END,
        FILE.replace('"a.wav"', '"a\\"') + END,
        part("model", "m", ' ; name="other"') + END,
        part("model", "m", 'Content-Disposition: form-data; name="x"') + END,
        "--BB\r\nContent-Type: text/plain\r\n\r\nm\r\n" + END,
        "--BB\r\n\r\nm\r\n" + END,
        '--BB\r\nContent-Disposition: form-data; name="model"\r\nm\r\n' + END,
        part("x", "1", "Content-Type: multipart/mixed; boundary=CC" + "x" * 4096) + END,
        part("model", "m" * 4097) + END,
        part("model", "\xff") + END,
    ],
)
def test_odd_forms(body: str) -> None:
    refused(body)


def test_a_name_in_another_case_is_seen() -> None:
    assert read(part("Model", "m") + END) == {"Model": "m"}


def test_too_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "MAX_PARTS", 3)
    assert len(read(part("a", "") + part("b", "") + MODEL + END)) == 3
    refused(part("a", "") + part("b", "") + part("c", "") + MODEL + END)


def test_the_standard_library_reads_the_same() -> None:
    from email import message_from_bytes

    body = (FILE + MODEL + END).encode("latin-1")
    parsed: Message = message_from_bytes(f"Content-Type: {TYPE}\r\n\r\n".encode() + body)
    values = {
        str(one.get_param("name", header="content-disposition")): one.get_payload()
        for one in parsed.get_payload()
        if isinstance(one, Message)
    }
    assert values["model"] == read(FILE + MODEL + END)["model"]


def test_a_large_file_is_searched_by_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delimiter may stand across two of them; most of this file looks like one."""
    turns: list[int] = []
    monkeypatch.setattr(multipart, "turn_if_due", lambda: turns.append(1))
    monkeypatch.setattr(multipart, "_SLICE_BYTES", 16)
    for size in range(1000, 1040):
        turns.clear()
        file = FILE.replace("RIFF", "--B" * (size // 3) + "x" * (size % 3))
        assert read(file + MODEL + END) == {"file": "", "model": "whisper-1"}
        assert len(turns) >= size // 16 - 1
    refused(FILE.replace("RIFF", "--B" * 1000))


def test_searching_leaves_others_their_turn() -> None:
    body = FILE.replace("RIFF", "--" * 2_000_000) + MODEL + END
    assert served_while(lambda: read(body)) >= 3
