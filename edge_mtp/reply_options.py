"""What can be asked of a reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.defaults import DEFAULT_MAX_TOKENS
from edge_mtp.formats.request import Extras, Generation

# The conversation and the bundle give a template these variables; nobody else does.
_TEMPLATE_OWN = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class ReplyOptions(Extras, Generation):
    """How a reply is generated; the defaults are best where nothing is known. The fields of `Generation` and `Extras`
    (`edge_mtp.formats.request`) are those of a `Request`, with three defaults that the engine resolves.

    `max_tokens` is exact. `stop_texts` end the reply and are not part of its text; in thoughts they are not looked for.

    `thinking` gives the template `enable_thinking`; None leaves it at the template's default. `thinking_budget` is the
    most tokens that the reply's thoughts have together: then the thought is closed, and no further one is opened; 0
    allows none. The template gets `template_variables` too. `control_tokens` makes control tokens of what looks like
    one in messages, tools and answers; otherwise that is text, and a tool's answer cannot end the turn.

    `draft_length` None leaves it to the controller, which chooses every step's K, 0 included (docs/controller.md); a
    number is K in every step. `draft_policy` overrides that: "auto" with a number is a controller that drafts no more.
    `draft_sources` None is the drafter and the grammar, or, without a drafter, look-up and the grammar.

    One of these constrains the reply: `response_schema`, a JSON schema; `grammar`, EBNF (docs/grammar.md); or the
    tools. `tool_choice` is "auto" (text or calls; None is the same), "required" (calls), "none" (text) or a tool's
    name (calls of that tool). `constrained` holds calls to the tools' schemas. None does so where tools are declared,
    nothing else constrains the reply and the bytes of the tokens are known: a call that cannot be run helps nobody,
    the text stays free, and the tokens that the grammar forces are drafts for free. False leaves calls to the model.
    Without `parallel_calls` a reply has at most one call. `strict_tools` refuses a tool whose schema the grammar cannot
    enforce whole. Where the reply may think, a thought may come before the constrained text.

    `keep_prefix` keeps the cache of system message and tools on the device's disk, for the next conversation with the
    same ones.
    """

    max_tokens: int = DEFAULT_MAX_TOKENS
    response_schema: Mapping[str, Any] | bool | None = None
    tool_choice: str | None = None
    constrained: bool | None = None
    parallel_calls: bool = True
    strict_tools: bool = False
    thinking: bool | None = None
    thinking_budget: int | None = None
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    control_tokens: bool = False
    keep_prefix: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("stop_texts", "draft_sources"):  # a string is a sequence too, of its letters
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))

    @property
    def shared(self) -> dict[str, Any]:
        """The fields that a `Request` has too, by name."""
        return {each.name: getattr(self, each.name) for group in (Generation, Extras) for each in fields(group)}

    @property
    def variables(self) -> dict[str, Any]:
        """The template's variables beside the conversation. Raises EdgeMtpError for a name that is taken."""
        variables = dict(self.template_variables)
        for name in variables:
            if name in _TEMPLATE_OWN:
                raise EdgeMtpError(f"template variable '{name}' is given by the conversation or the bundle; drop it")
        if self.thinking is not None:
            if variables.get("enable_thinking", self.thinking) is not self.thinking:
                raise EdgeMtpError(
                    f"template variable 'enable_thinking' is {variables['enable_thinking']!r} and thinking is"
                    f" {self.thinking}; drop one of them"
                )
            variables["enable_thinking"] = self.thinking
        return variables
