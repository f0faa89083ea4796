"""Small tokenizers of Hugging Face, trained here, and open_clip models that use them: no hub is needed.

Needs the packages tokenizers and transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testing.towers import SMALL_CONFIG

CONTEXT_LENGTH = 16
_TEXTS = (
    "a photo of a cat",
    "Two people at sunset, 2024!",
    "it's the dog's ball",
    "a very long caption of snake_case",
    "naïve café at night",
    "a dog on the beach and a red car",
) * 20
_BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_T5 = ("<pad>", "</s>", "<unk>")


def _word_piece() -> Any:
    """As BERT's, which the CLIPA models use."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=160, special_tokens=[*_BERT], show_progress=False)
    made.train_from_iterator(_TEXTS, trainer)
    around = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), _BERT, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def _unigram(unknown: bool = True) -> Any:
    """As T5's, which SigLIP uses: padded with the token that ends a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    special = [*_T5] if unknown else [*_T5[:2]]
    unk = {"unk_token": _T5[2]} if unknown else {}
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, show_progress=False, **unk)
    made.train_from_iterator(_TEXTS, trainer)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="</s>", eos_token="</s>", **unk)


def _byte_pairs() -> Any:
    """As RoBERTa's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "<pad>", "</s>"], initial_alphabet=letters, show_progress=False
    )
    made.train_from_iterator(_TEXTS, trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


TOKENIZERS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "word-piece": (_word_piece, {"clean": "lower", "strip_sep_token": True}),
    "unigram": (_unigram, {"clean": "canonicalize"}),
    "byte-pairs": (_byte_pairs, {}),
    "no-unknown": (lambda: _unigram(unknown=False), {}),
}
"""A function that trains one, and open_clip's options for it."""


def write_model(folder: Path, kind: str, **options: Any) -> str:
    """An open_clip model without weights in `folder`; returns its name."""
    train, usual = TOKENIZERS[kind]
    tokenizer = train()
    tokenizer.save_pretrained(folder)
    text = SMALL_CONFIG["text_cfg"] | {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": 400,
        "hf_tokenizer_name": f"clip-triton/{kind}",
        "tokenizer_kwargs": {**usual, **options},
        "pool_type": "last",
        "no_causal_mask": True,
    }
    model = {**SMALL_CONFIG, "custom_text": True, "init_logit_bias": -10, "text_cfg": text}
    config = {"model_cfg": model, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return f"local-dir:{folder}"
