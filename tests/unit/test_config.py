"""Settings: where a value comes from, what it takes, and that secrets stay hidden."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nx_signal.config import Settings, default_data_dir
from nx_signal.errors import SettingsError
from nx_signal.setting_fields import flag_of
from nx_signal.setting_values import redact

README = Path(__file__).parents[2] / "README.md"
SECRETS = [field.name for field in dataclasses.fields(Settings) if field.metadata["secret"]]


def settings_table() -> str:
    """The Markdown table of README.md."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for field in dataclasses.fields(Settings):
        if field.name == "data_dir":
            default = "`~/.local/share/nx-signal` (or below `XDG_DATA_HOME`)"
        elif field.default in (None, (), ""):
            default = "-"
        else:
            default = f"`{field.default}`"
        rows.append(f"| `{field.metadata['env']}` | {default} | {field.metadata['help']} |")
    return "\n".join(rows)


def test_the_readme_lists_the_settings_as_they_are() -> None:
    text = README.read_text(encoding="utf-8")
    _, marker, rest = text.partition("<!-- settings -->")
    table, end, _ = rest.partition("<!-- /settings -->")
    assert marker and end, "README.md holds the table between <!-- settings --> and <!-- /settings -->"
    assert table.strip() == settings_table()


def test_without_flags_and_variables_everything_has_its_default() -> None:
    settings = Settings.load({}, {})
    assert (settings.host, settings.port) == ("127.0.0.1", 31090)
    assert (settings.database_url, settings.redis_url, settings.kafka_bootstrap_servers) == (None, None, None)
    assert settings.data_dir == default_data_dir()


def test_a_flag_wins_over_its_variable() -> None:
    assert Settings.load({"port": "1"}, {"APP_ENV_PORT": "2"}).port == 1


def test_a_variable_wins_over_the_default() -> None:
    assert Settings.load({"port": None}, {"APP_ENV_PORT": "2"}).port == 2


def test_an_empty_variable_counts_as_unset() -> None:
    settings = Settings.load({}, {"APP_ENV_PORT": "", "APP_ENV_REDIS_URL": ""})
    assert (settings.port, settings.redis_url) == (31090, None)


def test_the_data_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/srv/data")
    assert Settings.load({}, {}).data_dir == Path("/srv/data/nx-signal")


def test_a_tilde_in_the_data_directory_is_home() -> None:
    assert Settings.load({"data_dir": "~/x"}, {}).data_dir == Path.home() / "x"


def test_lists_are_separated_by_commas_and_trimmed() -> None:
    settings = Settings.load({}, {"APP_ENV_CORS_ORIGINS": " https://a.example , https://b.example,"})
    assert settings.cors_origins == ("https://a.example", "https://b.example")


def test_the_types_of_cloud_events_are_pairs_whose_names_may_hold_an_equals_sign() -> None:
    settings = Settings.load(
        {}, {"APP_ENV_CLOUDEVENT_TYPES": "com.acme.paid=PAID, https://a.example/?t=1 = X,"}
    )
    assert settings.cloudevent_types == (("com.acme.paid", "PAID"), ("https://a.example/?t=1", "X"))


@pytest.mark.parametrize(
    ("given", "prefix"), [("/", ""), ("signal", "/signal"), ("/signal/", "/signal"), ("/a/b", "/a/b")]
)
def test_a_path_prefix_begins_with_a_slash_and_ends_with_none(given: str, prefix: str) -> None:
    assert Settings.load({}, {"APP_ENV_PATH_PREFIX": given}).path_prefix == prefix


OTHER_PATH = "a path that does not begin as one of this service's own, such as /signal"


@pytest.mark.parametrize(
    ("variable", "value", "takes"),
    [
        ("APP_ENV_PORT", "http", "a whole number from 0 to 65535"),
        ("APP_ENV_PORT", "65536", "a whole number from 0 to 65535"),
        ("APP_ENV_PORT", "-1", "a whole number from 0 to 65535"),
        ("APP_ENV_DRAIN_S", "nan", "seconds from 0.5 to 600"),
        ("APP_ENV_DRAIN_S", "soon", "seconds from 0.5 to 600"),
        ("APP_ENV_LOG_LEVEL", "loud", "one of debug, info, warning, error"),
        ("APP_ENV_KAFKA_FALLBACK_MODE", "newest", "one of latest, earliest"),
        ("APP_ENV_KAFKA_BOOTSTRAP_SERVERS", "broker:0", "host:port pairs separated by commas"),
        ("APP_ENV_KAFKA_BOOTSTRAP_SERVERS", "broker:99999", "host:port pairs separated by commas"),
        ("APP_ENV_CLOUDEVENT_TYPES", "com.acme", "pairs name=value separated by commas, each name once"),
        ("APP_ENV_CLOUDEVENT_TYPES", "a=B,a=C", "pairs name=value separated by commas, each name once"),
        ("APP_ENV_TIME_ZONE", "Mars/Olympus", "an IANA time zone such as UTC or Asia/Ho_Chi_Minh"),
        ("APP_ENV_PATH_PREFIX", "/a b", "a path such as /signal, of letters, digits and . _ ~ -"),
        ("APP_ENV_PATH_PREFIX", "/a/../b", "a path such as /signal, of letters, digits and . _ ~ -"),
        ("APP_ENV_PATH_PREFIX", "/v1", OTHER_PATH),
        ("APP_ENV_PATH_PREFIX", "/doc/x", OTHER_PATH),
        ("APP_ENV_JWKS_URL", "ftp://x", "a URL that starts with http:// or https://"),
        ("APP_ENV_JWKS_URL", "http://x:port", "a URL that starts with http:// or https://"),
    ],
)
def test_a_bad_value_names_the_variable_the_value_and_what_it_takes(
    variable: str, value: str, takes: str
) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.load({}, {variable: value})
    assert str(error.value) == f"{variable} is {value!r}; it takes {takes}."
    assert error.value.exit_status == 2


def test_a_bad_value_of_a_flag_names_the_flag() -> None:
    with pytest.raises(SettingsError, match=r"^--port is 'x'; it takes "):
        Settings.load({"port": "x"}, {"APP_ENV_PORT": "1"})


@pytest.mark.parametrize("name", [name for name in SECRETS if name.endswith("_url")])
def test_a_bad_value_of_a_secret_is_not_repeated(name: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.load({name: "mysql://u:hunter2@db"}, {})
    assert "hunter2" not in str(error.value)
    assert flag_of(name) in str(error.value)


def test_printing_the_settings_hides_passwords() -> None:
    settings = Settings.load(
        {
            "database_url": "postgresql://app:hunter2@db:5432/signal?password=hunter3",
            "redis_url": "redis://:hunter4@cache:6379/0",
            "kafka_sasl_password": "x://hunter5",
            "jwks_url": "https://u:hunter6@issuer/jwks",
        },
        {},
    )
    shown = repr(settings)
    assert "hunter" not in shown
    assert "postgresql://app:***@db:5432/signal" in shown
    assert str(settings) == shown


def test_an_address_without_a_password_is_shown_as_it_is() -> None:
    assert redact("redis://cache:6379/0") == "redis://cache:6379/0"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis+sentinel://u:hunter2@a:1,b:2/main/0?x=hunter3", "redis+sentinel://u:***@a:1,b:2/main/0"),
        ("rediss+cluster://:hunter2,@a:1,b:2", "rediss+cluster://:***@a:1,b:2"),
        ("redis+cluster://a:1,[::1]:2,c", "redis+cluster://a:1,[::1]:2,c"),
        ("redis+cluster://:hun/ter2@a:1", "redis+cluster://:***@a:1"),
        ("redis:hunter2@a", "***"),
        ("postgresql://u:hun#ter2@a/db", "postgresql://***"),
        ("postgresql://u:hun@t?er2@a/db", "postgresql://***"),
        ("postgresql://a/db?password=hun@ter2", "postgresql://***"),
    ],
)
def test_a_password_is_hidden_whatever_surrounds_it(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://a:1,b:2/main", "rediss+sentinel://a/main", "redis+cluster://u:p@a:1,b:2", "unix:///s"],
)
def test_redis_may_be_several_servers(url: str) -> None:
    assert Settings.load({"redis_url": url}, {}).redis_url == url


def test_every_setting_has_a_variable_a_flag_and_a_help_text() -> None:
    variables = [field.metadata["env"] for field in dataclasses.fields(Settings)]
    assert len(set(variables)) == len(variables)
    for field in dataclasses.fields(Settings):
        assert field.metadata["env"] == "APP_ENV_" + field.name.upper()
        assert flag_of(field.name) == "--" + field.name.replace("_", "-")
        assert field.metadata["help"].endswith(".")
        assert f"`{field.metadata['env']}`" in settings_table()


# --- names ---


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("APP_ENV_JWKS_URI", "APP_ENV_JWKS_URL"),
        ("APP_ENV_JKWS_URL", "APP_ENV_JWKS_URL"),
        ("APP_ENV_DATABASE", "APP_ENV_DATABASE_URL"),
        ("app_env_port", "APP_ENV_PORT"),
        ("APP_ENV_KAFKA_BOOTSTRAP_SERVER", "APP_ENV_KAFKA_BOOTSTRAP_SERVERS"),
    ],
)
def test_a_variable_that_is_no_setting_is_refused_with_the_nearest_name(variable: str, nearest: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{variable} is not a setting; the nearest is {nearest}\. "):
        Settings.load({}, {variable: "x", "HOME": "/root"})


def test_an_unknown_variable_without_a_value_is_unset() -> None:
    assert Settings.load({}, {"APP_ENV_JWKS_URI": ""}).jwks_url is None


def test_variables_of_other_programs_may_be_named() -> None:
    others = {"APP_ENV_LOGGER_FOLDER_PATH": "/tmp", "APP_ENV_FOREIGN_VARIABLES": "APP_ENV_LOGGER_*"}
    Settings.load({}, others)
    with pytest.raises(SettingsError, match="APP_ENV_JWKS_URI"):
        Settings.load({}, others | {"APP_ENV_JWKS_URI": "https://x"})


@pytest.mark.parametrize(
    ("host", "beyond"),
    [
        *((host, False) for host in ("127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost")),
        *((host, True) for host in ("0.0.0.0", "::", "", "10.0.0.1", "signal.example", "localhost.example")),  # noqa: S104 - not bound
    ],
)
def test_only_a_loopback_address_stays_on_this_machine(host: str, beyond: bool) -> None:
    assert Settings(host=host).listens_beyond_this_machine is beyond


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ("h1:9092", "h1:9092"),
        (" h1:9092 , h2:9093,", "h1:9092,h2:9093"),
        ("h1:9092;h2:9093", "h1:9092,h2:9093"),
        ("h1:9092\nh2:9093\n", "h1:9092,h2:9093"),
        ("h1", "h1:9092"),
        ("kafka://h1:9092/", "h1:9092"),
        ("SASL_SSL://h1:9096,SASL_SSL://h2:9096", "h1:9096,h2:9096"),
        ("kafka+ssl://ec2-1.amazonaws.com:9096,kafka+ssl://ec2-2.amazonaws.com:9096",
         "ec2-1.amazonaws.com:9096,ec2-2.amazonaws.com:9096"),
        ("[::1]:9093,::1,[fe80::1%eth0]", "[::1]:9093,[::1]:9092,[fe80::1%eth0]:9092"),
        ("10.0.0.1:19092", "10.0.0.1:19092"),
    ],
)  # fmt: skip
def test_brokers_are_understood_as_providers_write_them(given: str, understood: str) -> None:
    settings = Settings.load({}, {"APP_ENV_KAFKA_BOOTSTRAP_SERVERS": given})
    assert settings.kafka_bootstrap_servers == understood


@pytest.mark.parametrize(
    "given",
    [
        *(",", "h1:port", "h1:0", "h1:70000", ":9092", "h1:9092/topic", "http://h1:9092", "[::1:9092"),
        *("[x]:9092", "h1:9092?tls=true", "SASL_SSL://ann:hunter2@h1:9092", "ann:hunter2@h1:9092"),
    ],
)
def test_brokers_that_are_none_are_one_sentence_without_a_password(given: str) -> None:
    with pytest.raises(SettingsError, match="host:port pairs separated by commas") as raised:
        Settings.load({}, {"APP_ENV_KAFKA_BOOTSTRAP_SERVERS": given})
    assert "hunter2" not in str(raised.value)
    assert ("@" in given) == ("APP_ENV_KAFKA_SASL_USERNAME" in str(raised.value))


@pytest.mark.parametrize("name", ["APP_ENV_JWKS_URL", "APP_ENV_JWKS_PROXY"])
def test_what_surrounds_a_url_is_not_part_of_it(name: str) -> None:
    settings = Settings.load({}, {name: " https://issuer/keys\n"})
    assert "https://issuer/keys" in (settings.jwks_url, settings.jwks_proxy)
