"""Redis's error replies: the same alone and in a pipeline, waited for or not, and explained without a user's text."""

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis._parsers.base import BaseParser
from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.client import Pipeline
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from producer.client.outage import unavailable
from vqa.redis.error_replies import ErrorReply, describe, is_temporary
from vqa.settings import QueueSettings

#: as Redis 7.0.15 sends them; whether they pass, and words of what an operator reads
REPLIES = [
    ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", True, "disk"),
    ("NOREPLICAS Not enough good replicas to write.", True, "min-replicas-to-write"),
    ("READONLY You can't write against a read only replica.", True, "replica"),
    ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", True, "master"),
    ("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)", True, "failover"),
    ("LOADING Redis is loading the dataset in memory", True, "is loading its data"),
    ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", True, "SCRIPT KILL"),
    ("ERR Script killed by user with SCRIPT KILL...", True, "SCRIPT KILL"),
    ("ERR max number of clients reached", True, "maxclients"),
    ("NOSCRIPT No matching script. Please use EVAL.", True, "flushed"),
    ("CLUSTERDOWN The cluster is down", True, "cluster"),
    ("TRYAGAIN Multiple keys request during rehashing of slot", True, "cluster"),
    ("MOVED 3999 127.0.0.1:6381", False, "cluster"),
    ("CROSSSLOT Keys in request don't hash to the same slot", False, "cluster"),
    ("OOM command not allowed when used memory > 'maxmemory'.", False, "maxmemory"),
    ("NOAUTH Authentication required.", False, "refuses the user or the password"),
    ("WRONGPASS invalid username-password pair or user is disabled.", False, "refuses the user or the password"),
    ("NOPERM this user has no permissions to run the 'blmpop' command", False, "the right +blmpop"),
    ("NOPERM this user has no permissions to access one of the keys used as arguments", False, "redis-users.conf"),
    ("ERR The user executing the script can't run this command or subcommand", False, "redis-users.conf"),
    ("ERR user_script:222: ERR The user executing the script can't run this command", False, "redis-users.conf"),
    ("ERR user_script:9: NOREPLICAS Not enough good replicas to write.", True, "min-replicas-to-write"),
    ("DENIED Redis is running in protected mode because protected mode is enabled", False, "protected mode"),
    ("ERR DB index is out of range", False, "database"),
    ("ERR unknown command 'BLMPOP', with args beginning with: 'a question' ", False, "Redis 7.0"),
    ("ERR Unknown Redis command called from script", False, "Redis 7.0"),
    ("WRONGTYPE Operation against a key holding the wrong kind of value", True, "overwritten"),
    ("ERR syntax error", False, "Redis 7.0"),
    ("EXECABORT Transaction discarded because of previous errors.", False, "Redis 7.0"),
]


def _raised(reply: str) -> RedisError:
    """What redis-py makes of it."""
    error: RedisError = BaseParser.parse_error(reply)
    return error


def _in_a_pipeline(error: RedisError, command: str) -> RedisError:
    Pipeline.annotate_exception(cast(Pipeline, None), error, 3, ["SET", "key", command])
    return error


def _in_a_pipeline_of_asyncio(error: RedisError, command: str) -> RedisError:
    AsyncPipeline.annotate_exception(cast(AsyncPipeline, None), error, 3, ["SET", "key", command])
    return error


def _explained(error: RedisError) -> str:
    return str(unavailable(error, QueueSettings()))


@pytest.mark.parametrize(("reply", "passes", "words"), REPLIES, ids=lambda value: str(value).partition(" ")[0])
def test_a_reply_is_read_by_its_code(reply: str, passes: bool, words: str) -> None:
    # redis-py cannot parse a redirection from within a script, and there is none
    suffix = (
        "" if reply.startswith("MOVED") else " script: 756928dd1246249109cfe8475bfa267e967ea948, on @user_script:1."
    )
    piped = [piped(_raised(reply), "a question") for piped in (_in_a_pipeline, _in_a_pipeline_of_asyncio)]
    for error in (_raised(reply), *piped, _raised(reply + suffix)):
        assert is_temporary(error) is passes
        said = _explained(error)
        assert words in said
        assert "Redis at 127.0.0.1:6379" in said
        for hidden in ("question", "user_script", "Command #"):
            assert hidden not in said


@given(st.sampled_from(REPLIES), st.text())
def test_a_users_text_in_the_command_changes_nothing_and_is_not_shown(reply: tuple[str, bool, str], text: str) -> None:
    alone = _raised(reply[0])
    for quoted in (text, *(f"x) of pipeline caused error: {other}" for other, _, _ in REPLIES[:3])):
        for in_pipeline in (_in_a_pipeline, _in_a_pipeline_of_asyncio):
            piped = in_pipeline(_raised(reply[0]), quoted)
            assert ErrorReply.parse(piped) == ErrorReply.parse(alone)
            assert describe(piped) == describe(alone)


@given(st.text(alphabet=st.characters(min_codepoint=32, exclude_characters="\r\n")))
def test_whatever_redis_says_is_a_message(reply: str) -> None:
    error = _raised(reply or "ERR")
    is_temporary(error)
    assert len(_explained(error)) < 500


@pytest.mark.parametrize("error", [ConnectionError("Error 111 connecting"), TimeoutError("Timeout"), OSError("x")])
def test_no_reply_is_waited_for(error: Exception) -> None:
    assert ErrorReply.parse(error) is None
    assert is_temporary(error)
    assert describe(error) == type(error).__name__
