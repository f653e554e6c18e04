"""A browser's session: the API key in a cookie, for what a page cannot send a header with, such as pictures and event
streams. No script can read it, and no other site's page can send it."""

from fastapi import APIRouter, Depends, Request, Response

from service.api.guards.access import COOKIE
from service.api.keys import required
from service.api.problems import documented
from service.errors import BadRequest

router = APIRouter(prefix="/v1/session", tags=["keys"], dependencies=[Depends(required)])


@router.post(
    "",
    status_code=204,
    summary="Keep the API key of this request in a cookie",
    responses=documented(400, 409),
)
def begun(request: Request, response: Response) -> None:
    """For pages. The cookie is good while the browser runs, for as long as the key is."""
    secret = request.headers.get("authorization", "").partition(" ")[2].strip()
    if not secret:
        raise BadRequest("send the key as `Authorization: Bearer num_...`", code="missing_api_key")
    response.set_cookie(
        COOKIE, secret, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )


@router.delete("", status_code=204, summary="Forget the cookie", responses=documented(409))
def ended(response: Response) -> None:
    """The key itself stays as good as it was."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
