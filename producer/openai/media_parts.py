"""Images and videos of a chat-completions body, as parts of a job's message.

Videos are OpenAI's in form only; their fields are those of vLLM's `video_url` and `media_io_kwargs.video`
(vllm/frontend/processing/multimodal/media/video.py, November 2026): `data:video/jpeg;base64,A,B,C` are frames, whose
times are `frames_indices` / `fps`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from vqa.errors import InvalidJob
from vqa.frozen_model import shown
from vqa.jobs.message import MOST_FRAMES

#: from the URL of an image to the image's source; raises InvalidJob or BadImage
ResolveUrl = Callable[[str], str]

#: the image's type, which the bytes tell: LiteLLM writes `format`, New API `mime_type` or `MimeType`
_IMAGE_TYPE = frozenset({"format", "mime_type", "MimeType"})

#: OpenAI's names, by what they mean here; clients send an empty one
_DETAILS: Final[Mapping[Any, str]] = {"auto": "auto", "low": "low", "high": "high", "original": "high", "": "auto"}

_FRAMES = "data:video/jpeg;base64,"

#: frames a second of frames without a rate, as in vLLM
_FRAMES_FPS = 1.0

#: of the numbers of a video, so that times are finite
_MOST = 1_000_000_000

#: fields of a video that only frames have; a file says these itself
_OF_FRAMES = ("frames_indices", "total_num_frames", "duration")

#: fields of a video's `video_url`, or of the body's `media_io_kwargs.video` for all of its videos
VIDEO_FIELDS = frozenset({"fps", "num_frames", *_OF_FRAMES})

#: those that are whole numbers, or a list of them
_WHOLE = ("frames_indices", "total_num_frames", "num_frames")


def image_part(value: object, place: str, resolve: ResolveUrl) -> dict[str, Any]:
    """Return the part of an `image_url` object. Raises InvalidJob, BadImage."""
    image = as_object(value, place)
    refuse_unknown(image, {"url", "detail", "pages"} | _IMAGE_TYPE, place)
    part: dict[str, Any] = {"type": "image", "image": resolve(_url(image, place)), **parse_detail(image, place)}
    return part | ({"pages": image["pages"]} if "pages" in image else {})


def video_url_part(value: object, place: str, resolve: ResolveUrl, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a `video_url` object; `defaults` are for fields that it lacks. Raises InvalidJob, BadImage."""
    own = as_object(value, place)
    refuse_unknown(own, {"url", "detail"} | VIDEO_FIELDS, place)
    url, detail = _url(own, place), parse_detail(own, place)
    video = _checked_numbers({**defaults, **own}, place)
    if url[: len(_FRAMES)].lower() == _FRAMES:
        return {"type": "video", **_frames(url[len(_FRAMES) :], video, place), **detail}
    for name in _OF_FRAMES:
        if name in video:
            raise InvalidJob(f"{place}.{name}: only for frames, {_FRAMES}...; a file is sampled by fps and num_frames")
    part: dict[str, Any] = {"type": "video", "video": resolve(url), **detail}
    if "fps" in video:
        part["fps"] = video["fps"]
    # -1 is all in vLLM: here as many as a worker allows
    if video.get("num_frames", -1) > 0:
        part["max_frames"] = video["num_frames"]
    return part


def video_part(part: Mapping[str, Any], place: str, resolve: ResolveUrl) -> dict[str, Any]:
    """Return the part of our own form: `frames` or `video` are URLs. Raises InvalidJob, BadImage."""
    refuse_unknown(part, {"type", "frames", "times_s", "video", "fps", "max_frames", "detail"}, place)
    found = {name: field for name, field in part.items() if name != "detail"} | parse_detail(part, place)
    if "frames" in part:
        frames = part["frames"]
        if not isinstance(frames, list) or not all(isinstance(frame, str) for frame in frames):
            raise InvalidJob(f"{place}.frames: must be a list of strings")
        found["frames"] = [resolve(frame) for frame in frames]
    if "video" in part:
        if not isinstance(part["video"], str):
            raise InvalidJob(f"{place}.video: must be a string")
        found["video"] = resolve(part["video"])
    return found


def video_defaults(value: object, place: str) -> dict[str, Any]:
    """Return what a body's `media_io_kwargs` says of videos. Raises InvalidJob."""
    kinds = as_object(value, place)
    refuse_unknown(kinds, {"video"}, place)
    fields = as_object(kinds.get("video", {}), f"{place}.video")
    refuse_unknown(fields, VIDEO_FIELDS, f"{place}.video")
    return _checked_numbers(fields, f"{place}.video")


def _frames(payload: str, video: Mapping[str, Any], place: str) -> dict[str, Any]:
    # not all of a long list of commas becomes strings
    frames = payload.split(",", MOST_FRAMES)
    if (most := video.get("num_frames", -1)) > 0:
        frames = frames[:most]
    if len(frames) > MOST_FRAMES:
        raise InvalidJob(f"{place}.url: a video has at most {MOST_FRAMES} frames")
    indices = video.get("frames_indices", range(len(frames)))
    if len(indices) != len(frames):
        raise InvalidJob(f"{place}.frames_indices: {len(indices)} indices for {len(frames)} frames")
    if (total := video.get("total_num_frames", len(frames))) < len(frames):
        raise InvalidJob(f"{place}.total_num_frames: {total}, but there are {len(frames)} frames")
    fps = video.get("fps") or (total / video["duration"] if video.get("duration") else _FRAMES_FPS)
    return {
        "frames": [f"data:image/jpeg;base64,{frame}" for frame in frames],
        "times_s": [index / fps for index in indices],
    }


def _checked_numbers(video: Mapping[str, Any], place: str) -> dict[str, Any]:
    checked = {
        name: _as_whole(field) if name in _WHOLE else field for name, field in video.items() if name in VIDEO_FIELDS
    }
    for name, value in checked.items():
        if name == "frames_indices":
            if not isinstance(value, list) or not all(_is_whole(index) and 0 <= index < _MOST for index in value):
                raise InvalidJob(f"{place}.{name}: must be a list of whole numbers from 0, below {_MOST:,}")
        elif name in _WHOLE:
            if not _is_whole(value) or not (0 < value < _MOST or (value == -1 and name == "num_frames")):
                raise InvalidJob(f"{place}.{name}: must be a whole number from 1, below {_MOST:,}")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 1 / _MOST < value < _MOST:
            raise InvalidJob(f"{place}.{name}: must be a number over 0, from {1 / _MOST:g} to {_MOST:g}")
    return checked


def _as_whole(value: Any) -> Any:
    """Return 5 for 5.0, which to JSON Schema is a whole number, too; also in a list."""
    if isinstance(value, list):
        return [_as_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def parse_detail(fields: Mapping[str, Any], place: str) -> dict[str, str]:
    """Return the part's field `detail`, nothing for the default."""
    wanted = fields.get("detail", "auto")
    if not isinstance(wanted, str) or wanted not in _DETAILS:
        raise InvalidJob(f"{place}{'.' if place else ''}detail: must be auto, low, high or original")
    return {} if _DETAILS[wanted] == "auto" else {"detail": _DETAILS[wanted]}


def _url(fields: Mapping[str, Any], place: str) -> str:
    if not isinstance(url := fields.get("url"), str):
        raise InvalidJob(f"{place}.url: must be a string")
    return url


def as_object(value: object, place: str) -> dict[str, Any]:
    """Return the object's non-null fields. Raises InvalidJob if `value` is not an object."""
    if not isinstance(value, dict):
        raise InvalidJob(f"{place}: must be an object")
    return {name: field for name, field in value.items() if field is not None}


def refuse_unknown(fields: Mapping[str, Any], known: set[str] | frozenset[str], place: str) -> None:
    """Raise InvalidJob, naming the field, if there is one that is not `known`."""
    if unknown := sorted(fields.keys() - known):
        raise InvalidJob(f"{place}.{shown(unknown[0])}: not supported")
