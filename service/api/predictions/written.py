"""What is told of images, as JSON in pieces: to join them takes half as long as to encode dictionaries and arrays of each."""

from collections.abc import Sequence

from service.api.predictions.predictions import encoded, warned
from service.data.uploaded import CLASSES
from service.serving.confidence import Predicted

_PIECES = 5  # of an image
_LABELS = [b',{"label":%d,"confidence":' % label for label in range(CLASSES)]


class Written:
    """`predictions.described` of n images."""

    def __init__(self, found: Predicted, warnings: Sequence[Sequence[str]], judged: Sequence[bool]) -> None:
        pieces = [b"", b"", b',"probabilities":[', b"", b'],"warnings":[]}'] * len(found.labels)
        pieces[0::_PIECES] = [_LABELS[label] for label in found.labels]
        pieces[1::_PIECES] = encoded(found.confidences)[1:-1].split(b",")
        pieces[3::_PIECES] = encoded(found.probabilities)[2:-2].split(b"],[")
        for image, odd in enumerate(warned(found, warnings, judged)):
            if odd:
                pieces[_PIECES * image + 4] = b'],"warnings":%b}' % encoded(odd)
        self._pieces = pieces

    def of(self, first: int, last: int) -> bytes:
        """The list of those from the first to before the last."""
        return b"[%b]" % b"".join(self._pieces[_PIECES * first : _PIECES * last])[1:]
