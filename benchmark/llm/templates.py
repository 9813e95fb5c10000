"""Templates: what a prompt says, as data; shipped in English and Chinese, or one's own from the experiment file."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from benchmark.errors import InputError, nearest

Way = Literal["pointwise", "collaborative", "listwise", "generative"]
Language = Literal["english", "chinese"]

LISTS = ("liked", "disliked", "history")
SLOTS = ("profile", "taste", *LISTS, "candidate", "candidates", "question", "user_embedding", "item_embedding")
ENTRY_SLOTS = ("title", "rating", "time")
OPTION_SLOTS = ("label", "title")


class Taste(BaseModel):
    """What ``{taste}`` tells: the most frequent values of an item column among what the user liked before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str = Field(description="Item column: lists, text with commas such as genres, or years, told by decade.")
    top: int = Field(3, ge=1, description="Values that are told.")
    history: int = Field(50, ge=1, description="Newest items that are counted; more than those that are listed.")


class Prompt(BaseModel):
    """What a model is asked. What is left out is taken from the shipped template of the language.

    Slots of ``template``: ``{profile}`` of the user; ``{taste}``, what the history mostly holds; ``{liked}``,
    ``{disliked}``, ``{history}`` (both) items of the history, oldest first; ``{candidate}`` item; ``{candidates}``, the
    options of a list-wise prompt; ``{question}``; ``{user_embedding}`` and ``{item_embedding}``, the vectors of a
    collaborative model. Each may stand once. Literal braces are doubled.

    Raises:
        InputError: an unknown or repeated slot, or a template that is no format string.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: Language = Field("english", description="Of the shipped template.")
    template: str | None = Field(None, description="Text with slots, such as '{profile} liked {liked}. {question}'.")
    question: str | None = Field(None, description="Stands for {question}; may hold slots itself.")
    system: str | None = Field(None, description="System message of a chat template.")
    entry: str | None = Field(None, description="An item of the history: slots {title}, {rating}, {time}.")
    separator: str | None = Field(None, description="Stands between the items of a history.")
    option: str | None = Field(None, description="An option of {candidates}: slots {label}, {title}.")
    option_separator: str | None = Field(None, description="Stands between the options.")
    no_profile: str | None = Field(None, description="Stands for the profile of a user of whom nothing is known.")
    no_items: str | None = Field(None, description="Stands for a history without items.")
    profile: tuple[str, ...] | None = Field(None, description="User columns of {profile}; all by default.")
    taste: Taste | None = Field(None, description="What {taste} tells of the history.")
    time: str | None = Field(None, description="How {time} is written (strftime); months are the finest unit.")
    ratings: dict[float, str] | None = Field(None, description="Words for ratings; others are written as numbers.")
    answers: tuple[str, str] | None = Field(None, description="The words for yes and no, one token each.")
    chat: bool | None = Field(
        None, description="Wrap the prompt into the tokenizer's chat template; by default where it has one."
    )

    @field_validator("template", "question")
    @classmethod
    def _known_slots(cls, text: str | None) -> str | None:
        return text if text is None else _checked(text, SLOTS, "template")

    @field_validator("entry")
    @classmethod
    def _known_entry_slots(cls, text: str | None) -> str | None:
        return text if text is None else _checked(text, ENTRY_SLOTS, "entry")

    @field_validator("option")
    @classmethod
    def _known_option_slots(cls, text: str | None) -> str | None:
        return text if text is None else _checked(text, OPTION_SLOTS, "option")

    def filled(self, way: Way) -> Template:
        """Return the template that is used: the shipped one of this language, changed where something is given.

        Raises:
            InputError: a slot that this way needs is missing, stands twice, or has nothing that could fill it.
        """
        shipped = SHIPPED[way, self.language]
        changed = {f.name: getattr(self, f.name, None) for f in fields(Template) if f.name != "way"}
        template = replace(shipped, **{name: value for name, value in changed.items() if value is not None})
        slots = template.slots
        for slot in slots:
            if slots.count(slot) > 1:
                raise InputError(f"template '{template.text}': slot '{slot}' stands more than once")
            if slot not in ALLOWED[way]:
                raise InputError(
                    f"template '{template.text}': nothing fills the slot '{slot}' of a {way} prompt; "
                    f"it may hold: {', '.join(sorted(ALLOWED[way] | {'question'}))}"
                )
        if ("taste" in slots) != (self.taste is not None):
            raise InputError(
                f"template '{template.text}': the slot {{taste}} and prompt.taste, which fills it, go together"
            )
        for slot in sorted(NEEDED[way] - set(slots)):
            raise InputError(f"template '{template.text}': a {way} prompt needs the slot '{{{slot}}}'")
        return template


@dataclass(frozen=True)
class Template:
    """A ``Prompt`` in which nothing is left out."""

    way: Way
    template: str
    answers: tuple[str, str]
    question: str = ""
    system: str = ""
    entry: str = "{title}"
    separator: str = ", "
    option: str = "{label}. {title}"
    option_separator: str = "\n"
    no_profile: str = "unknown"
    no_items: str = "nothing"
    time: str = "%B %Y"
    ratings: Mapping[float, str] | None = None
    chat: bool | None = None
    profile: tuple[str, ...] | None = None
    taste: Taste | None = None

    @property
    def text(self) -> str:
        """The template with the question put in."""
        return self.template.replace("{question}", self.question)

    @property
    def parts(self) -> list[tuple[str, str]]:
        return parse(self.text)

    @property
    def slots(self) -> tuple[str, ...]:
        return tuple(text for kind, text in self.parts if kind == "slot")

    def render(
        self,
        profile: str = "",
        history: Sequence[str] = (),
        liked: Sequence[bool] | None = None,
        candidate: str = "",
        taste: Sequence[str] = (),
    ) -> str:
        """Return the text of one prompt, without white space at its end; prompts are never made of it.

        Args:
            profile: of the user; "" becomes ``no_profile``.
            history: texts of its entries, oldest first.
            liked: whether each was liked; None: all were.
            candidate: item text.
            taste: values that the history mostly holds.
        """
        flags = [True] * len(history) if liked is None else liked
        chosen = {
            "liked": [text for text, flag in zip(history, flags, strict=True) if flag],
            "disliked": [text for text, flag in zip(history, flags, strict=True) if not flag],
            "history": list(history),
        }
        chosen["taste"] = list(taste)
        values = {name: self.separator.join(texts) or self.no_items for name, texts in chosen.items()}
        return self.text.format(profile=profile or self.no_profile, candidate=candidate, **values).rstrip()


def _checked(text: str, slots: tuple[str, ...], what: str) -> str:
    for kind, slot in parse(text, what):
        if kind == "slot" and slot not in slots:
            raise InputError(f"{what} '{text}': unknown slot '{slot}'{nearest(slot, slots)}")
    return text


def parse(template: str, what: str = "template") -> list[tuple[str, str]]:
    """Return the parts of a template in order: ("words", text) and ("slot", name).

    Raises:
        InputError: no format string, or a slot with a format.
    """
    parts: list[tuple[str, str]] = []
    try:
        for words, slot, form, conversion in string.Formatter().parse(template):
            if words:
                # doubled braces come as parts of their own
                if parts and parts[-1][0] == "words":
                    words = parts.pop()[1] + words
                parts.append(("words", words))
            if slot is not None:
                if form or conversion:
                    raise InputError(f"{what} '{template}': slot '{slot}' takes no format")
                parts.append(("slot", slot))
    except ValueError as error:
        raise InputError(f"{what} '{template}': {error}; double a brace that is meant literally") from error
    return parts


_HISTORY = frozenset({"profile", "taste", *LISTS})
NEEDED: dict[Way, frozenset[str]] = {
    "pointwise": frozenset({"candidate"}),
    "collaborative": frozenset({"candidate", "user_embedding", "item_embedding"}),
    "listwise": frozenset({"candidates"}),
    "generative": frozenset(),
}
ALLOWED: dict[Way, frozenset[str]] = {way: _HISTORY | needed for way, needed in NEEDED.items()}

ALONE = Template(way="pointwise", template="{candidate}", answers=("", ""))  # a text and nothing else
_ENGLISH = Template(way="pointwise", template="", answers=("Yes", "No"))
_CHINESE = replace(
    _ENGLISH, answers=("是", "否"), separator="、", no_profile="未知", no_items="无", time="%Y年%m月"
)  # fmt: skip


def _shipped(way: Way, base: Template, template: str, question: str) -> Template:
    return replace(base, way=way, template=template, question=question)


SHIPPED: dict[tuple[Way, Language], Template] = {
    ("pointwise", "english"): _shipped(
        "pointwise",
        _ENGLISH,
        "User: {profile}. Liked: {liked}. Disliked: {disliked}. {question} ",
        "Will the user like {candidate}? Answer Yes or No:",
    ),
    ("pointwise", "chinese"): _shipped(
        "pointwise",
        _CHINESE,
        "用户：{profile}。喜欢：{liked}。不喜欢：{disliked}。{question}",
        "该用户会喜欢“{candidate}”吗？请回答是或否：",
    ),
    # after CoLLM's template (Zhang et al., arXiv:2310.19488, section III-A)
    ("collaborative", "english"): _shipped(
        "collaborative",
        _ENGLISH,
        "User: {profile}. Liked: {liked}. Disliked: {disliked}. The user's preferences are encoded in the feature "
        "{user_embedding}. {question} ",
        "Will the user like {candidate} with the feature {item_embedding}? Answer Yes or No:",
    ),
    ("collaborative", "chinese"): _shipped(
        "collaborative",
        _CHINESE,
        "用户：{profile}。喜欢：{liked}。不喜欢：{disliked}。用户的偏好编码在特征{user_embedding}中。{question}",
        "该用户会喜欢特征为{item_embedding}的“{candidate}”吗？请回答是或否：",
    ),
    # letters as the answers of a list, as in LlamaRec (Yue et al., arXiv:2311.02089)
    ("listwise", "english"): _shipped(
        "listwise",
        _ENGLISH,
        "User: {profile}. History: {history}.\nOptions:\n{candidates}\n{question} ",
        "Which option will the user choose next? Answer with its letter:",
    ),
    ("listwise", "chinese"): _shipped(
        "listwise",
        _CHINESE,
        "用户：{profile}。历史：{history}。\n选项：\n{candidates}\n{question}",
        "该用户接下来会选择哪一项？请用字母回答：",
    ),
    ("generative", "english"): _shipped(
        "generative", _ENGLISH, "User: {profile}. History: {history}. {question} ", "The next title is:"
    ),
    ("generative", "chinese"): _shipped(
        "generative", _CHINESE, "用户：{profile}。历史：{history}。{question}", "下一个标题是："
    ),
}
