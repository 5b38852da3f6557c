"""A chat template that takes the answers of tools as parts of one message."""

# Takes answers as LiteRT-LM's own templates do: as parts of one message.
PARTS = """{% macro value(v) %}{{ '<|"|>' ~ v ~ '<|"|>' if v is string else v }}{% endmacro -%}
{{ bos_token }}{% for m in messages -%}
{% if m['role'] == 'tool' -%}
{% for a in m['content'] -%}
<|tool_response>response:{{ a['name'] }}{{ '{' -}}
{% if a['response'] is mapping -%}
{% for k, v in a['response'] | dictsort %}{{ k }}:{{ value(v) }}{{ ',' if not loop.last }}{% endfor -%}
{% else %}value:{{ value(a['response']) }}{% endif -%}
{{ '}' }}<tool_response|>{% endfor -%}
{% else -%}
{% if m['role'] != 'assistant' or not loop.previtem or loop.previtem['role'] != 'tool' -%}
<|turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}{{ '\n' }}{% endif -%}
{% if m['content'] is string %}{{ m['content'] }}{% else -%}
{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endif -%}
{% for c in m['tool_calls'] or [] %}<|tool_call>call:{{ c['function']['name'] }}{{ '{' -}}
{% for k, v in c['function']['arguments'] | dictsort %}{{ k }}:{{ value(v) }}{{ ',' if not loop.last }}{% endfor -%}
{{ '}' }}<tool_call|>{% endfor -%}
{% if not m['tool_calls'] %}<turn|>{{ '\n' }}{% endif -%}
{% endif -%}
{% endfor -%}
{% if add_generation_prompt and messages[-1]['role'] != 'tool' %}<|turn>model{{ '\n' }}{% endif %}"""
