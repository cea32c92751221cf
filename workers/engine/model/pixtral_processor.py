"""The processor of Pixtral and Mistral 3 without torchvision.

transformers has these models' images for Pillow, too, but imports its processor with torchvision only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.processing_utils import ProcessorMixin


class PixtralProcessor(ProcessorMixin):
    """As transformers' class of this name: an image is rows of tokens that each end in a break, the last in an end."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int = 16,
        spatial_merge_size: int = 1,
        chat_template: Any = None,
        image_token: str = "[IMG]",
        image_break_token: str = "[IMG_BREAK]",
        image_end_token: str = "[IMG_END]",
        **_: Any,
    ) -> None:
        """The first arguments are loaded by transformers, the others are of the checkpoint's processor_config.json."""
        parent: Any = super()
        parent.__init__(image_processor, tokenizer, chat_template=chat_template)
        self.patch_size, self.spatial_merge_size = patch_size, spatial_merge_size
        self.image_token, self.image_break_token, self.image_end_token = image_token, image_break_token, image_end_token
        ids = [tokenizer.convert_tokens_to_ids(token) for token in (image_token, image_break_token, image_end_token)]
        self.image_token_id, self.image_break_token_id, self.image_end_token_id = ids
        self.image_token_ids = ids
        # images are scaled to whole patches of merged tokens
        image_processor.patch_size = {"height": self._pixels, "width": self._pixels}

    @property
    def _pixels(self) -> int:
        """Pixels along an edge of a token."""
        return self.patch_size * self.spatial_merge_size

    @property
    def model_input_names(self) -> list[str]:
        return [*self.tokenizer.model_input_names, *self.image_processor.model_input_names]

    def replace_image_token(self, image_inputs: Mapping[str, Any], image_idx: int, **_: Any) -> str:
        """Return what stands for an image in the text; called by transformers."""
        height, width = map(int, image_inputs["image_sizes"][image_idx])
        rows, columns = height // self._pixels, width // self._pixels
        return self.image_break_token.join([self.image_token * columns] * rows) + self.image_end_token
