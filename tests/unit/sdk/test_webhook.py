"""A webhook as plugin code reads it, in our words and in Django's."""

from __future__ import annotations

from engine.sdk.webhook import WebhookRequest

FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}


def test_headers_have_any_case_and_dashes_or_underscores() -> None:
    request = WebhookRequest(b"", {"X-GitHub-Event": "push"})
    for name in ("X-GitHub-Event", "x-github-event", "X_GITHUB_EVENT"):
        assert request.headers[name] == request.headers.get(name) == "push"
        assert name in request.headers
    assert request.headers.get("X_GITHUB_DELIVERY") is None


def test_it_reads_as_a_request_of_django() -> None:
    request = WebhookRequest(
        b"token=t&text=a+b&text=c", FORM | {"X-Hub-Signature": "s"}, {"page": "1"}, "/api/hooks/c/p"
    )
    assert request.POST == {"token": "t", "text": "c"}
    assert request.POST.get("nothing") is None
    assert request.GET == {"page": "1"}
    expected = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/api/hooks/c/p",
        "CONTENT_TYPE": FORM["Content-Type"],
        "HTTP_X_HUB_SIGNATURE": "s",
    }
    assert expected == request.META
    assert WebhookRequest(b'{"a": 1}', {"Content-Type": "application/json"}).POST == {}
