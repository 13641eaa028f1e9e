"""What each answer of the Storage Write API means: the table of errors, row by row."""

import pytest
from google.rpc import code_pb2 as code

from sinks.bigquery_stream import Answer, Code, Verdict


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(code.OK), Verdict.LANDED),
        (Answer(code.ALREADY_EXISTS, Code.OFFSET_ALREADY_EXISTS), Verdict.LANDED),
        (Answer(code.ALREADY_EXISTS), Verdict.LANDED),
        (Answer(code.OUT_OF_RANGE, Code.OFFSET_OUT_OF_RANGE), Verdict.GAP),
        (Answer(code.OUT_OF_RANGE), Verdict.GAP),
        # The service says INVALID_ARGUMENT with a detail, the emulator FAILED_PRECONDITION without.
        (Answer(code.INVALID_ARGUMENT, Code.STREAM_FINALIZED), Verdict.FENCED),
        (Answer(code.FAILED_PRECONDITION), Verdict.FENCED),
        (Answer(code.INVALID_ARGUMENT, None, "Stream has been finalized and cannot be appended"), Verdict.FENCED),
        (Answer(code.NOT_FOUND, Code.STREAM_NOT_FOUND), Verdict.FENCED),
        (Answer(code.NOT_FOUND, None, "Requested stream was not found"), Verdict.FENCED),
        (Answer(code.INVALID_ARGUMENT, Code.INVALID_STREAM_STATE), Verdict.FENCED),
        (Answer(code.INVALID_ARGUMENT, None, "", {3: "bad"}), Verdict.REFUSED),
        (Answer(code.INVALID_ARGUMENT, None, "cannot parse"), Verdict.REFUSED),
        (Answer(code.ABORTED), Verdict.AWAY),
        (Answer(code.UNAVAILABLE), Verdict.AWAY),
        (Answer(code.CANCELLED), Verdict.AWAY),
        (Answer(code.INTERNAL), Verdict.AWAY),
        (Answer(code.DEADLINE_EXCEEDED), Verdict.AWAY),
        (Answer(code.UNKNOWN), Verdict.AWAY),
        (Answer(code.RESOURCE_EXHAUSTED), Verdict.AWAY),
        (Answer(code.INTERNAL, Code.KMS_SERVICE_ERROR), Verdict.AWAY),
        (Answer(code.PERMISSION_DENIED), Verdict.STOP),
        (Answer(code.UNAUTHENTICATED), Verdict.STOP),
        (Answer(code.NOT_FOUND, Code.TABLE_NOT_FOUND), Verdict.STOP),
        (Answer(code.NOT_FOUND, None, "Table t"), Verdict.STOP),
        (Answer(code.INVALID_ARGUMENT, Code.SCHEMA_MISMATCH_EXTRA_FIELDS), Verdict.STOP),
        (Answer(code.INVALID_ARGUMENT, None, "Input schema has more fields"), Verdict.STOP),
        (Answer(code.FAILED_PRECONDITION, Code.CMEK_NOT_PROVIDED), Verdict.STOP),
        (Answer(code.UNIMPLEMENTED), Verdict.STOP),
    ],
)
def test_what_an_answer_means(answer: Answer, verdict: Verdict) -> None:
    assert answer.verdict is verdict
