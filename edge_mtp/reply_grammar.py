"""The grammar that constrains a reply: of its tools, of a JSON schema, or given as such."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.grammar import Thinking, ToolGrammar, ToolReport, response_grammar, tool_grammar, with_thought
from edge_mtp.reply_options import ReplyOptions

_NO_BYTES = "no token bytes inside, and its tokenizer gives none"


class ReplyGrammars:
    """Makes the grammars of replies from their options and tools."""

    def __init__(self, bundle: str, has_token_bytes: bool) -> None:
        """`bundle` names the file in messages. Without `has_token_bytes` the runner can hold no grammar and finds no
        stop string.
        """
        self._bundle = bundle
        self._has_token_bytes = has_token_bytes
        self._last: tuple[str, ToolGrammar] | None = None

    def grammar(self, tools: Sequence[Mapping[str, Any]], options: ReplyOptions, thinking: Thinking) -> str | None:
        """The grammar of a reply; None where nothing constrains it.

        Raises EdgeMtpError for options that contradict each other, or that need the bytes of tokens where the runner
        has none.
        """
        choice, schema, grammar = options.tool_choice, options.response_schema, options.grammar
        if choice is not None and not tools:
            raise EdgeMtpError(f"tool choice '{choice}' needs tools; declare some (--tools FILE)")
        if options.constrained and not tools:
            raise EdgeMtpError("constrained tool calls need tools; declare some (--tools FILE)")
        if options.constrained is False and choice not in (None, "auto"):
            raise EdgeMtpError(f"tool choice '{choice}' holds by constraining calls; drop it, or --unconstrained")
        if grammar is not None and not grammar.strip():
            raise EdgeMtpError("the grammar is empty; give it a rule `root`")
        self._check_held(tools, options)
        by_tools = choice is not None if options.constrained is None else options.constrained
        kinds = {"a response schema": schema is not None, "a grammar": grammar is not None, "tool calls": by_tools}
        asked = [kind for kind, wanted in kinds.items() if wanted]
        if len(asked) > 1:
            raise EdgeMtpError(f"{asked[0]} and {asked[1]} cannot both constrain a reply; ask for one of them")
        if asked and not self._has_token_bytes:
            raise EdgeMtpError(f"{self._bundle}: {_NO_BYTES}, so {asked[0]} cannot constrain a reply; export it again")
        if options.stop_texts and not self._has_token_bytes:
            raise EdgeMtpError(f"{self._bundle}: {_NO_BYTES}, so no stop string can be found; export it again")
        if by_tools:
            return self._of_tools(tools, options, thinking).text
        if options.constrained is None and not asked and self._has_token_bytes and tools:
            try:
                return self._of_tools(tools, options, thinking).text
            except EdgeMtpError as error:
                raise EdgeMtpError(f"{error}; or leave calls to the model (--unconstrained)") from None
        if schema is not None:
            return response_grammar(schema, thinking=thinking)
        return None if grammar is None else with_thought(grammar, thinking)

    def can_report(self, tools: Sequence[Mapping[str, Any]], options: ReplyOptions) -> bool:
        """Whether replies hold calls to the tools' schemas at all."""
        free = options.response_schema is None and options.grammar is None and options.constrained is not False
        return bool(tools) and free and self._has_token_bytes and options.tool_choice != "none"

    def reports(
        self, tools: Sequence[Mapping[str, Any]], options: ReplyOptions, thinking: Thinking
    ) -> tuple[ToolReport, ...]:
        """How far the grammar of `tools` holds calls to each tool's schema."""
        return self._of_tools(tools, options, thinking).reports

    def _check_held(self, tools: Sequence[Mapping[str, Any]], options: ReplyOptions) -> None:
        """Raises EdgeMtpError where calls have to be strict or single and no grammar of the tools can see to it."""
        if not options.strict_tools and options.parallel_calls:
            return
        option = "--strict-tools" if options.strict_tools else "--single-call"
        if options.constrained is False:
            raise EdgeMtpError(f"{option} holds by constraining calls; drop it, or --unconstrained")
        if tools and options.grammar is not None:
            raise EdgeMtpError(f"{option} holds by a grammar of the tools, and another is given; drop one of them")
        if tools and not self._has_token_bytes:
            raise EdgeMtpError(f"{self._bundle}: {_NO_BYTES}, so {option} cannot hold; export it again")

    def _of_tools(self, tools: Sequence[Mapping[str, Any]], options: ReplyOptions, thinking: Thinking) -> ToolGrammar:
        """The last one is kept: a conversation asks for the same at every turn."""
        choice = options.tool_choice or "auto"
        asked = json.dumps([list(tools), choice, options.parallel_calls, thinking, options.strict_tools])
        last = self._last  # read once: other threads ask too
        if last is None or last[0] != asked:
            made = tool_grammar(
                tools, choice=choice, parallel=options.parallel_calls, thinking=thinking, strict=options.strict_tools
            )
            self._last = last = asked, made
        return last[1]
