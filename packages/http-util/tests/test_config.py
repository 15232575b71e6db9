"""The limits of a client, and the addresses and keys it refuses."""

import secrets
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from llama_orch_adapter_api import Secret, Timeouts
from llama_orch_http_util import HttpClient, HttpConfig, RetryPolicy
from llama_orch_http_util._config import check_key, check_url

CANARY = secrets.token_hex(16)


class Accepted(NamedTuple):
    """A URL, what it becomes, whether a key goes with it, and the switches it needs."""

    url: str
    becomes: str
    with_key: bool = False
    switches: dict[str, Any] = {}


class Refused(NamedTuple):
    """A URL and why it is refused; `mended` is the same after the mend that the message names."""

    url: str
    message: str
    with_key: bool = False
    mended: Accepted | None = None
    switches: dict[str, Any] = {}


INSECURE = {"insecure_tls": True}
LINK_LOCAL = {"allow_link_local": True}
PLAINTEXT = {"allow_plaintext_key": True}
ONLY_HTTP2 = {"http_version": "2"}
GIVE = "give http://HOST:PORT or https://HOST:PORT"

ACCEPTED = [
    Accepted("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    Accepted("http://engine", "http://engine"),
    Accepted("https://engine/", "https://engine"),
    Accepted("HTTPS://Engine:443/base/", "HTTPS://Engine:443/base"),
    Accepted("http://[::1]:8080", "http://[::1]:8080"),
    Accepted("http://10.0.0.7:8000", "http://10.0.0.7:8000"),
    Accepted("https://engine", "https://engine", with_key=True),
    Accepted("http://localhost:8080", "http://localhost:8080", with_key=True),
    Accepted("http://127.8.8.8", "http://127.8.8.8", with_key=True),
    Accepted("http://[::1]", "http://[::1]", with_key=True),
    Accepted("http://[::ffff:127.0.0.1]", "http://[::ffff:127.0.0.1]", with_key=True),
    Accepted("https://localhost:8443", "https://localhost:8443", switches=INSECURE),
    Accepted("https://127.8.8.8", "https://127.8.8.8", switches=INSECURE),
    Accepted("https://[::1]", "https://[::1]", with_key=True, switches=INSECURE),
    Accepted("http://engine", "http://engine", switches=INSECURE),
    Accepted("https://engine", "https://engine", switches=ONLY_HTTP2),
    Accepted("http://100.100.100.201", "http://100.100.100.201"),
    Accepted("http://[fd00:ec2::253]", "http://[fd00:ec2::253]"),
]


def link_local(shown: str, url: str, mended: str | None = None) -> Refused:
    mended = mended or url
    return Refused(
        url,
        f"url {shown} is a link-local address; set http.allow_link_local = true if you mean it",
        mended=Accepted(mended, mended, switches=LINK_LOCAL),
    )


def metadata(shown: str, url: str, mended: str | None = None) -> Refused:
    mended = mended or url
    return Refused(
        url,
        f"url {shown} is a cloud's metadata; set http.allow_link_local = true if you mean it",
        mended=Accepted(mended, mended, switches=LINK_LOCAL),
    )


def unchecked(url: str) -> Refused:
    return Refused(
        url,
        f"url {url} would be trusted unseen by http.insecure_tls; "
        "name its certificate authority in http.ca_file, or set http.allow_insecure_remote = true",
        mended=Accepted(url, url, switches={**INSECURE, "allow_insecure_remote": True}),
        switches=INSECURE,
    )


def plaintext(url: str) -> Refused:
    return Refused(
        url,
        f"url {url} would carry api_key unencrypted; use https, or set http.allow_plaintext_key = true",
        with_key=True,
        mended=Accepted(url, url, with_key=True, switches=PLAINTEXT),
    )


REFUSED = [
    Refused(
        "http://127.0.0.1",
        "url http://127.0.0.1 is plain http, which carries no HTTP/2; use https, or http.http_version = 'auto'",
        mended=Accepted("https://127.0.0.1", "https://127.0.0.1", switches=ONLY_HTTP2),
        switches=ONLY_HTTP2,
    ),
    Refused("", f"url is without a scheme; {GIVE}"),
    Refused("engine:8080/v1", f"url is engine://; {GIVE}"),
    Refused("127.0.0.1:8080", f"url is without a scheme; {GIVE}"),
    Refused("ftp://engine", f"url is ftp://engine; {GIVE}"),
    Refused("unix:///run/engine.sock", f"url is unix://; {GIVE}"),
    Refused("http://", f"url is http://; {GIVE}"),
    Refused("http://:8080", f"url is http://; {GIVE}"),
    Refused(
        f"http://user:{CANARY}@engine",
        "url http://engine holds a user or password; take them out and set api_key",
        mended=Accepted("http://engine", "http://engine"),
    ),
    Refused(f"http://{CANARY}@engine", "url http://engine holds a user or password; take them out and set api_key"),
    Refused("http://@engine", "url http://engine holds a user or password; take them out and set api_key"),
    Refused(
        f"http://engine/v1?key={CANARY}",
        "url http://engine holds a query or fragment; give the base URL alone",
        mended=Accepted("http://engine/v1", "http://engine/v1"),
    ),
    Refused("http://engine?", "url http://engine holds a query or fragment; give the base URL alone"),
    Refused(f"http://engine#{CANARY}", "url http://engine holds a query or fragment; give the base URL alone"),
    Refused("http://engine#", "url http://engine holds a query or fragment; give the base URL alone"),
    Refused("http://engine:99999", "url http://engine has a port that is no port; give a number from 1 to 65535"),
    Refused("http://engine:web", "url http://engine has a port that is no port; give a number from 1 to 65535"),
    Refused("http://engine:0", "url http://engine has a port that is no port; give a number from 1 to 65535"),
    Refused("http://engine:", "url http://engine has a port that is no port; give a number from 1 to 65535"),
    *(
        Refused(f"http://{host}", f"url http://{host} is not in ASCII; give the host as DNS has it, xn--…")
        for host in ("①⑥⑨.254.169.254", "169。254。169。254", "\uff11\uff16\uff19.254.169.254", "bücher.example")
    ),
    *(
        Refused(
            f"http://{host}",
            f"url http://{host} has a host that is none; give letters, digits, hyphens, up to 63 between dots",
        )
        for host in ("a..b", ".engine", "engine..", "a" * 64, "engine\\.example", "%31.example", "a,b")
    ),
    Refused("http://[::1", "url has brackets that hold no IPv6 address; give http://[ADDRESS]:PORT"),
    Refused("http://[engine]", "url has brackets that hold no IPv6 address; give http://[ADDRESS]:PORT"),
    Refused(
        "http://127.1:8080",
        "url http://127.1 is an address in a notation that is not spoken here; give 127.0.0.1",
        mended=Accepted("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ),
    Refused(
        "http://0x7f000001",
        "url http://0x7f000001 is an address in a notation that is not spoken here; give 127.0.0.1",
        with_key=True,
        mended=Accepted("http://127.0.0.1", "http://127.0.0.1", with_key=True),
    ),
    Refused(" http://engine", "url holds a space or control character; take it out"),
    Refused("http://engine\n", "url holds a space or control character; take it out"),
    Refused("http://eng\tine", "url holds a space or control character; take it out"),
    Refused("http://eng\u202eine", "url holds a space or control character; take it out"),
    link_local("http://169.254.169.254", "http://169.254.169.254"),
    link_local("http://169.254.0.1", "http://169.254.0.1:8080"),
    link_local("http://2852039166", "http://2852039166", "http://169.254.169.254"),
    link_local("http://0xa9fea9fe", "http://0xA9FEA9FE", "http://169.254.169.254"),
    link_local("http://fe80::1", "http://[fe80::1]"),
    link_local("http://fe80::1%eth0", "http://[fe80::1%eth0]"),
    link_local("http://::ffff:169.254.169.254", "http://[::ffff:169.254.169.254]"),
    metadata("http://fd00:ec2::254", "http://[fd00:ec2::254]"),
    metadata("http://fd00:ec2::254%eth0", "http://[fd00:ec2::254%eth0]"),
    metadata("http://fd20:ce::254", "http://[fd20:ce::254]"),
    metadata("http://100.100.100.200", "http://100.100.100.200"),
    metadata("http://1684301000", "http://1684301000", "http://100.100.100.200"),
    metadata("http://::ffff:100.100.100.200", "http://[::ffff:100.100.100.200]"),
    metadata("https://192.0.0.192", "https://192.0.0.192"),
    unchecked("https://engine"),
    unchecked("https://10.0.0.7"),
    unchecked("https://localhost.example"),
    unchecked("https://0.0.0.0"),
    plaintext("http://engine"),
    plaintext("http://10.0.0.7"),
    plaintext("http://localhost.example"),
    plaintext("http://0.0.0.0"),
]


def url_of(given: Accepted | Refused) -> str:
    return given.url.replace(CANARY, "canary")


def checked(given: Accepted | Refused) -> str:
    return check_url(given.url, HttpConfig(**given.switches), with_key=given.with_key)


@pytest.mark.parametrize("given", ACCEPTED, ids=url_of)
def test_urls(given: Accepted) -> None:
    """A base URL is taken without its trailing slash; a key goes over https or to this machine."""
    assert checked(given) == given.becomes


def test_every_host_is_one_that_can_be_looked_up() -> None:
    """What is taken for a host is one that the resolver's encoding of names takes, up to its longest labels."""
    for host in ("a" * 63 + ".b", "a.", "_engine.my-pool", "127.0.0.1"):
        assert check_url(f"http://{host}", HttpConfig(), with_key=False) == f"http://{host}"
        assert host.encode("idna") == host.encode()


@pytest.mark.parametrize("given", REFUSED, ids=url_of)
def test_refused_urls(given: Refused) -> None:
    """Each refusal says what is wrong and the mend, and repeats no password and no query."""
    with pytest.raises(ValueError, match=r".") as caught:
        checked(given)

    assert str(caught.value) == given.message
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("given", [refused for refused in REFUSED if refused.mended], ids=url_of)
def test_mended_urls(given: Refused) -> None:
    """Who follows the mend is not refused again."""
    assert given.mended
    assert checked(given.mended) == given.mended.becomes


def test_a_client_checks_its_url() -> None:
    """A client is not made for a URL that is refused, key or no key."""
    with pytest.raises(ValueError, match="holds a query"):
        HttpClient("http://engine?a=b")
    with pytest.raises(ValueError, match="would carry api_key unencrypted"):
        HttpClient("http://engine", api_key=Secret(CANARY))


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\0", " \t", "é"])
def test_keys_that_no_header_can_carry(ending: str) -> None:
    """A key with the line end of its file is refused when the client is made, and not shown."""
    with pytest.raises(ValueError, match=r"^api_key is empty or holds a line end or another character") as caught:
        HttpClient("http://127.0.0.1", api_key=Secret(CANARY + ending))

    assert CANARY not in str(caught.value)


def test_keys_that_a_header_can_carry() -> None:
    """Any visible ASCII is a key, and a client is made for it."""
    key = Secret("".join(map(chr, range(33, 127))))

    check_key(key)
    assert HttpClient("http://127.0.0.1:8080", api_key=key).where == "127.0.0.1:8080"


def test_an_empty_key_is_refused() -> None:
    """A key that is there but empty is a mistake, not the absence of a key."""
    with pytest.raises(ValueError, match=r"^api_key is empty"):
        check_key(Secret(""))


def test_overrides() -> None:
    """A pool's http table goes over what follows from its timeouts."""
    table = {"max_body": 4096, "sock_idle": 5, "http_version": "1.1", "ca_file": "/etc/ca.pem"}
    config = HttpConfig.of(table, Timeouts(connect=0.5))

    assert config == HttpConfig(
        connect=0.5, sock_idle=5.0, max_body=4096, http_version="1.1", ca_file=Path("/etc/ca.pem")
    )


def test_overrides_of_the_retries() -> None:
    """A pool's http.retry table changes what it names, and the rest stays (ORCH-3612)."""
    assert HttpConfig.of({"retry": {"attempts": 5, "cap": 1}}, Timeouts()).retry == RetryPolicy(attempts=5, cap=1.0)
    assert HttpConfig.of({}, Timeouts()).retry == RetryPolicy()


def test_what_is_configured_by_default() -> None:
    """Nothing is switched off unless somebody does it: certificates and addresses are checked."""
    config = HttpConfig()

    assert (config.http_version, config.ca_file) == ("auto", None)
    assert not config.insecure_tls
    assert not config.allow_insecure_remote
    assert not config.allow_link_local
    assert not config.allow_plaintext_key


@pytest.mark.parametrize(
    ("timeouts", "backstop"),
    [
        (Timeouts(), 600.0),
        (Timeouts(first_token=400), 800.0),
        (Timeouts(idle=500), 1000.0),
        (Timeouts(first_token=86400, idle=86400), 172800.0),
    ],
)
def test_the_backstop_lies_above_the_hosts_limits(timeouts: Timeouts, backstop: float) -> None:
    """A socket may be silent for twice the host's limits, and never for less than ten minutes."""
    assert HttpConfig.of({}, timeouts).sock_idle == backstop


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"max_bdoy": 1}, "http: Object contains unknown field `max_bdoy`"),
        ({"max_body": "8M"}, "http: Expected `int`, got `str` - at `$.max_body`"),
        ({"ca_file": 7}, "http: Expected a path as `str`, got `int` - at `$.ca_file`"),
        ({"http_version": "3"}, "http: Invalid enum value '3' - at `$.http_version`"),
        ({"http2_connections": 0}, "http.http2_connections is 0; give at least 1"),
        ({"http2_window": 1023}, "http.http2_window is 1023; give bytes, 1024 to 2147483647"),
        ({"http2_window": 2**31}, "http.http2_window is 2147483648; give bytes, 1024 to 2147483647"),
        ({"http2_cool_down": 0}, "http.http2_cool_down is 0.0; give seconds, above 0"),
        ({"http2_ping_interval": -1}, "http.http2_ping_interval is -1.0; give seconds, above 0"),
        ({"http2_settings_timeout": 0}, "http.http2_settings_timeout is 0.0; give seconds, above 0"),
        (
            {"insecure_tls": True, "ca_file": "/etc/ca.pem"},
            "http.insecure_tls switches http.ca_file off; give one of them",
        ),
        ({"retry": {"atempts": 2}}, "http: Object contains unknown field `atempts` - at `$.retry`"),
        ({"retry": {"attempts": 0}}, "http: attempts is 0; give 1 for a single try, or more - at `$.retry`"),
        ({"retry": {"base": 9}}, "http: base is 9.0 and cap 2.0; give 0 < base <= cap, in seconds - at `$.retry`"),
        ({"retry": 3}, "http: Expected `object`, got `int` - at `$.retry`"),
        ({"connect": 0}, "http.connect is 0.0; give seconds, above 0"),
        ({"connect": -1.5}, "http.connect is -1.5; give seconds, above 0"),
        ({"sock_idle": float("nan")}, "http.sock_idle is nan; give seconds, above 0"),
        ({"sock_idle": float("inf")}, "http.sock_idle is inf; give seconds, above 0"),
        *(
            ({name: size}, f"http.{name} is {size}; give bytes, at least 1")
            for name in ("max_line", "max_event", "max_body", "max_error_body")
            for size in (0, -1)
        ),
    ],
)
def test_refused_overrides(overrides: dict[str, Any], message: str) -> None:
    """A misspelt name, a wrong type and a limit that limits nothing are refused by name."""
    with pytest.raises(ValueError, match="http") as caught:
        HttpConfig.of(overrides, Timeouts())

    assert str(caught.value) == message
