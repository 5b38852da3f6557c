"""Writes workloads.jsonl, what `bench` asks: `python -m edge_mtp.harness.ask.data.make_workloads`.

Every prompt is something that a person would ask. Reports and logs among the long ones are drawn at random from the
item's id, so that the file is the same each time.
"""

from __future__ import annotations

import datetime
import random
import re
from dataclasses import replace
from pathlib import Path

from edge_mtp.harness.ask.data import make_phone
from edge_mtp.harness.ask.item import Item, Turn

FILE = Path(__file__).with_name("workloads.jsonl")


def _asked(kind: str, name: str, *prompts: str) -> Item:
    turns = tuple(Turn(({"role": "user", "content": prompt},)) for prompt in prompts)
    return Item(f"{kind}-{name}", kind, f"{kind}/{name}", turns)


def _item(kind: str, name: str, *prompts: str) -> Item:
    return _asked(kind, name, *map(_unwrapped, prompts))


def _unwrapped(text: str) -> str:
    """Paragraphs as one line each; lines that are indented, or of code between ``` marks, stay as they are."""
    parts = text.strip().split("```")
    parts[::2] = [re.sub(r"(?<=\S)\n(?=[^\s\-*`])(?![A-Z]\w+: )", " ", part) for part in parts[::2]]
    return "```".join(parts)


# -- chat -----------------------------------------------------------------------------------------------------------

CHAT = [
    _item("chat", "tyre", "My bike has a slow puncture. How do I find the hole without a bucket of water?"),
    _item("chat", "tea", "Explain to my ten-year-old why tea cools faster in a wide cup than in a tall one."),
    _item(
        "chat",
        "flat",
        "I have two offers for a flat: one is 70 square metres, 25 minutes by tram, no balcony; the other 55 square"
        " metres, ten minutes on foot, with a balcony to the street. I work from home three days a week. Which would"
        " you take, and why?",
    ),
    _item(
        "chat", "speech", "Write a short, warm toast for my sister's wedding. She is a vet, he repairs church organs."
    ),
    _item("chat", "sleep", "I wake up at four every night and cannot fall asleep again. What could I try first?"),
    _item(
        "chat", "haggle", "How do I politely ask for a lower price at a flea market? Give me three sentences I can say."
    ),
    _item("chat", "plants", "Which five herbs survive on a north-facing window sill, and what does each of them need?"),
    _item("chat", "story", "Tell me a story of about 150 words about a night bus that takes a wrong turn."),
    _item("chat", "plan", "Plan a rainy Saturday in a small town for two adults and a toddler, hour by hour."),
    _item("chat", "words", 'What is the difference between "effective" and "efficient"? Two examples for each.'),
]

# -- summarise ------------------------------------------------------------------------------------------------------

SUMMARISE = [
    _item(
        "summarise",
        "bridge",
        """
Summarise this in two sentences for the front page.

The footbridge over the Lenne, closed since the flood of last autumn, will not reopen before the summer. Divers who
inspected the middle pier in February found that the current had washed away the gravel on its upstream side to a depth
of almost two metres. The pier itself is sound, the town's engineer told the council on Monday, but without the gravel
it would stand on a slope, and nobody could say what another flood would do. The council had hoped to fill the hole with
rock from the quarry at Harst, which is cheap and close. The state's water authority refused: the rock is limestone, and
the reach below the bridge is the last one in the valley where brown trout spawn. Basalt must be brought from eighty
kilometres away, by lorries for which the lane to the bridge first has to be strengthened. That doubles the cost, to
about 410,000 euros. Shopkeepers on the left bank, who have lost up to a third of their customers, asked for a
temporary ferry. The rowing club has offered two boats and volunteers; the town's insurance is looking into it.
""",
    ),
    _item(
        "summarise",
        "email",
        """
Give me the three things I have to do, and by when, from this email:

Hi all, thanks for a good call yesterday, and sorry that I had to jump off early (the plumber came two hours before he
said he would, which must be a first). Just to write down where we got to. The printer has moved our slot forward by a
week, so the final files for the booklet have to be with them on the 19th and not on the 26th. Jo, that means the maps
need to be redrawn by the 15th at the latest, the scale bars in the current ones are wrong, please check them against
the survey and not against the old edition. I will write the captions as soon as I have the maps. Somebody has to ask
the museum again for permission to print the 1887 photograph; they answered my first letter with a form, and the form
asks for a fax number. Jo, could you call them instead? Anything before Friday is fine. Sam will chase the translator.
Oh, and the invoice for the paper is due on the 12th. Jo, that one is in your tray, it just needs a signature. Coffee on
me next time. Best, Miriam
""",
    ),
    _item(
        "summarise",
        "study",
        """
Summarise the following for somebody without scientific training, in at most 80 words.

Between 2016 and 2022 we counted swifts at 46 buildings in three towns, of which 23 were renovated in that time. At each
renovated building, artificial nests were fitted under the new roof; the other buildings served for comparison. In the
first season after the renovation, colonies at renovated buildings shrank by 61 percent on average (range 35 to 100),
while those at the other buildings changed by less than 5 percent. In the second season a quarter of the artificial
nests were occupied, in the fourth season 58 percent. Nests that were fitted within one metre of a former entrance were
taken up twice as fast as those farther away. Playing recorded calls in May had a strong effect in the first two seasons
and none afterwards. Three colonies never returned; in all of them the scaffolding had stood during the breeding season.
We conclude that artificial nests can make up for the loss of natural ones within about five years, provided that they
are close to the old entrances and that no scaffolding stands between May and July.
""",
    ),
    _item(
        "summarise",
        "review",
        """
Summarise this customer's review in one sentence, then list what was good and what was bad.

I wanted to love this tent. It goes up in four minutes, which I have timed, alone, in wind, and swearing very little.
The inner tent is dry, roomy and has pockets exactly where your hand looks for them at night. It kept out a
thunderstorm in the Vosges that flattened two bigger tents on the same site. But. The zip of the outer door catches on
its own rain flap every single time, from the inside and from the outside, and on the fifth night it split. The
manufacturer answered my mail after nine days and asked for a photograph, then after another eight days asked for the
receipt, then offered me fifteen percent off a new tent. The pegs are made of something that bends when it is shown a
stone. And the bag in which all of it is supposed to fit was evidently sewn for a different tent. I repaired the zip
with a safety pin and slept well for another week. Three stars, and two of them are for the storm.
""",
    ),
    _item(
        "summarise",
        "history",
        """
Write a summary of about 60 words.

The salt road between Arden and the coast was never built; it was walked. In the ninth century the monks of Saint Olm
boiled brine from two springs in the valley and carried the salt in baskets over the pass, eleven leagues in three days.
Where they slept, inns grew, and where the inns stood, other roads crossed. When the town of Kell bought the springs in
1342 it forbade carts, because carts would have made the trip in a day and a half, and nobody would have slept in the
inns, which Kell owned as well. Only in 1611, after the second plague, when there were no bearers left, were carts
allowed, at a toll that the last duke raised nine times in ten years. Merchants began to ship salt from the south
instead. By 1700 the springs had been closed, the inns turned into farms, and the pass belonged to goats again. What is
left is a line of thirteen stone crosses, one for each place where a bearer had died, and a law, still in force, that
no wheeled vehicle may cross the pass on a Sunday.
""",
    ),
    _item(
        "summarise",
        "debate",
        """
Summarise both sides of this discussion in one sentence each, without taking one.

Anna: If we make the library self-service after six, we can open until ten. People who work all day could finally come.
Victor: Self-service means cameras and a gate with a card. Today anybody can walk in, warm up and read a paper. Some of
our regulars have no address, so they cannot have a card.
Anna: They can come until six, as they do now. Nothing gets worse for them.
Victor: It gets worse at five past six in January. And once the gate is there, how long until somebody saves a salary by
closing the desk at four?
Anna: You are arguing against something that nobody has proposed. The staff asked for this themselves; they do not want
evening shifts any more.
Victor: Then let us pay for evening shifts so well that somebody wants them.
Anna: With what money? The roof took all of it.
Victor: With the money for the gate. It costs 90,000.
Anna: Once. Evening shifts cost 60,000 every year.
""",
    ),
    _item(
        "summarise",
        "terms",
        """
What do I agree to here? Four short bullet points in plain words.

The Subscriber is granted a personal, non-transferable right to use the Garden Box for the duration of the Term. The
Term begins upon delivery of the first Box and is extended by successive periods of three months each, unless the
Subscriber gives notice in text form no later than fourteen days before the end of the current period. Prices may be
adjusted once per calendar year in line with the published index of consumer prices for fresh vegetables; where an
adjustment exceeds eight percent, the Subscriber may terminate the agreement within thirty days of being informed. Boxes
that cannot be delivered for reasons within the Subscriber's control are charged in full and donated to a charitable
kitchen. The Subscriber may suspend delivery for up to six weeks per calendar year; suspension does not extend the Term.
The crates remain the property of the Provider, and a fee of twelve euros is charged for each crate that has not been
returned within four weeks after the end of the agreement.
""",
    ),
    _item(
        "summarise",
        "meeting",
        """
Turn these notes into a summary of three sentences that I can send to my manager.

standup mon - build broken since sat night, nobody noticed bc alerts go to old channel (lena fixes channel today) -
cause: cert of artifact store expired, renewed by hand sun 23:40 by arjun, expires again in 90 days!! needs automation,
arjun says half a day - release 4.2 was planned wed, now thu, qa needs full 2 days - mobile: crash on old tablets is
real, 0.8% of sessions, only when offline + rotated, repro found by chen, fix in review - marketing wants screenshots by
tue, can use 4.1, looks the same - lena off fri - decision: no more releases on fridays, not even small ones (after last
time) - open: who owns the alerts? nobody wants it, ask platform team
""",
    ),
]

# -- code -----------------------------------------------------------------------------------------------------------

CODE = [
    _item(
        "code",
        "intervals",
        "Write a Python function `merge(intervals)` that merges overlapping intervals, with type"
        " hints, a docstring and three tests.",
    ),
    _item(
        "code",
        "sql",
        "I have tables `orders(id, customer_id, placed_at, total)` and `customers(id, name, city)`. Write"
        " SQL for the three customers of each city who spent most in 2025, with their totals.",
    ),
    _item(
        "code",
        "bash",
        "Write a bash script that renames all .jpeg files in a folder to .jpg, never overwrites a file,"
        " and prints what it did. It must cope with spaces in names.",
    ),
    _item(
        "code",
        "review",
        """
What is wrong with this function, and how would you write it?

```python
def average_by_key(rows, result={}):
    for row in rows:
        if row["key"] in result:
            result[row["key"]].append(row["value"])
        else:
            result[row["key"]] = [row["value"]]
    for key in result:
        result[key] = sum(result[key]) / len(result[key])
    return result
```
""",
    ),
    _item(
        "code",
        "explain",
        """
Explain line by line what this does, and what its complexity is.

```c
uint32_t f(uint32_t x) {
    x = x - ((x >> 1) & 0x55555555u);
    x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0fu;
    return (x * 0x01010101u) >> 24;
}
```
""",
    ),
    _item(
        "code",
        "kotlin",
        "Write a Kotlin data class for a recipe (title, servings, ingredients with amount and unit) and"
        " a function that scales it to another number of servings, rounding sensibly.",
    ),
    _item(
        "code",
        "regex",
        "Write a regular expression for times on the 24-hour clock such as 7:05 and 23:59, but not 24:00"
        " or 7:60, and explain each part.",
    ),
    _item(
        "code",
        "javascript",
        "Write a debounce function in TypeScript that has a `cancel` method and keeps the argument"
        " types of the function that it wraps.",
    ),
    _item(
        "code",
        "html",
        "Write one HTML file with a countdown timer: minutes in a field, start, pause and reset buttons,"
        " readable from across a room, no libraries.",
    ),
    _item(
        "code",
        "tests",
        """
Write pytest tests for this function, edge cases included.

```python
def parse_duration(text: str) -> int:
    \"\"\"Seconds of a duration such as "1h30m", "45s" or "2h"; ValueError for anything else.\"\"\"
    match = re.fullmatch(r"(?:(\\d+)h)?(?:(\\d+)m)?(?:(\\d+)s)?", text)
    if not match or not any(match.groups()):
        raise ValueError(f"{text!r} is no duration")
    hours, minutes, seconds = (int(group or 0) for group in match.groups())
    return hours * 3600 + minutes * 60 + seconds
```
""",
    ),
]

# -- copy -----------------------------------------------------------------------------------------------------------

COPY = [
    _item(
        "copy",
        "names",
        """
Replace every "Mr. Harlan" by "Ms. Okafor" and change the pronouns to match. Give me the whole text, otherwise
unchanged.

Mr. Harlan joined the orchestra in 1998 as its third horn. Within two years he was its first, and when the old
conductor retired it was Mr. Harlan whom the musicians asked to speak for them. His letters to the ministry, of which
eleven are in the archive, are short and very polite and were always answered. He taught at the school on Wednesdays.
His pupils remember that Mr. Harlan never raised his voice, and that he kept a bag of plums in his horn case. In 2014 he
turned down the post in the capital. "I would have to learn where everything is," he told the paper, and the paper
believed him. Mr. Harlan played his last concert in May, sat down in the audience for the second half, and was seen to
count the rests.
""",
    ),
    _item(
        "copy",
        "json",
        """
Extract the orders as a JSON array of objects with the keys "customer", "item", "quantity" and "price". Only the JSON.

Order book, Tuesday. Lindqvist took 4 oak shelves at 38.50 each. The school (ask for Ms. Baptiste) wants 12 coat hooks,
2.75 apiece. Moreau: 1 kitchen table, 640.00, to be delivered after Easter. Two bar stools for the Golden Heron, 89.90
each. O'Brien came back for another 6 drawer handles at 4.20. And Mr. Tanaka ordered 3 picture frames, large, 27.00
each.
""",
    ),
    _item(
        "copy",
        "typos",
        """
Fix the typos in this code and change nothing else. Reply with the whole file.

```python
import jsn
from pathlb import Path


def load_settings(path: Path) -> dict[str, str]:
    if not path.exsts():
        retrun {}
    with path.open(encoding="utf-8") as file:
        settings = json.load(file)
    for key, vlaue in settings.items():
        if not isinstance(value, str):
            raise TypeEror(f"{key} must be a string, not {type(value).__name__}")
    return setings


def save_settings(path: Path, settings: dict[str, str]) -> Nnoe:
    temporary = path.with_sufix(".tmp")
    temporary.write_text(json.dumps(settings, indent=2), encodng="utf-8")
    temporary.replace(path)
```
""",
    ),
    _item(
        "copy",
        "rename",
        """
Rename the variable `d` to `distance` and the function `calc` to `shortest_paths`, everywhere. Print the whole code.

```python
def calc(graph, start):
    d = {node: float("inf") for node in graph}
    d[start] = 0
    queue = [(0, start)]
    while queue:
        known, node = heapq.heappop(queue)
        if known > d[node]:
            continue
        for neighbour, weight in graph[node].items():
            candidate = d[node] + weight
            if candidate < d[neighbour]:
                d[neighbour] = candidate
                heapq.heappush(queue, (candidate, neighbour))
    return d


print(calc({"a": {"b": 2, "c": 7}, "b": {"c": 3}, "c": {}}, "a"))
```
""",
    ),
    _item(
        "copy",
        "table",
        """
Turn this list into a Markdown table with the columns Peak, Height (m), Country, First climbed. Keep the order.

- Mount Sorrel, 3912 m, Avaland, first climbed in 1874
- Dent Grise, 4021 m, on the border of Avaland and Merrow, first climbed in 1881
- Old Shepherd, 2876 m, Merrow, climbed since time out of mind
- Pic des Corbeaux, 3540 m, Avaland, first climbed in 1902
- Kettlehorn, 3688 m, Merrow, first climbed in 1893
- White Widow, 4310 m, Thule, first climbed in 1954
- Broken Tooth, 3157 m, Thule, not yet climbed
""",
    ),
    _item(
        "copy",
        "formal",
        """
Correct spelling and punctuation, keep every sentence and every word otherwise.

Dear neigbours as you will of noticed the lift is out of order since thursday. the company was here twice, the first
time they brang the wrong part, the second time the right part but the wrong key. They promissed to come back on tuesday
morning, between seven and eleven oclock. Mrs Petrov on the fifth floor can not use the stairs at the moment so if you
go shoping please ring at her door and ask weather she needs something. The baby carriages may stand in the hall untill
than, but not infront of the letter boxes. Their is also a new plan for the laundry room it hangs were the old one was.
Thank you for your patients, the house comittee
""",
    ),
    _item(
        "copy",
        "config",
        """
Set the port to 9443, the log level to "warning" and the number of workers to 6. Print the complete file.

```yaml
server:
  host: 0.0.0.0
  port: 8080
  workers: 2
  timeouts:
    connect: 5s
    read: 30s
    idle: 120s
logging:
  level: debug
  format: json
  destinations:
    - stdout
    - file:/var/log/orchard/server.log
storage:
  path: /srv/orchard/data
  snapshots:
    every: 6h
    keep: 28
  limits:
    upload: 64MiB
    attachments: 12
```
""",
    ),
    _item(
        "copy",
        "quote",
        """
Copy out, word for word, every sentence in which a colour is named.

The harbour lay still. A red buoy turned slowly at the end of its chain, and on the quay somebody had left a pair of
boots. The ferry, white once, was being loaded with crates. Nobody hurried. A boy in a green jersey counted the crates
aloud and lost count at thirty. From the customs house, whose shutters are blue on the sea side and grey on the other,
came the sound of a typewriter. The captain looked at the clouds. They were the colour of slate, she said later, not
black, and slate never sinks anybody. At noon the rope was let go. The gulls followed as far as the yellow light.
""",
    ),
    _item(
        "copy",
        "xml",
        """
Extract all contacts as JSON objects, one a line, with the keys name, role, phone. Nothing else.

```xml
<contacts>
  <person id="17"><name>Ilse Varga</name><role>site manager</role><phone>+43 1 555 0136</phone></person>
  <person id="21"><name>Tomasz Zielony</name><role>electrician</role><phone>+48 22 555 0190</phone></person>
  <person id="22"><name>Bénédicte Roux</name><role>architect</role><phone>+33 1 55 50 01 77</phone></person>
  <person id="30"><name>Hamish McLeod</name><role>crane operator</role><phone>+44 131 555 0142</phone></person>
  <person id="31"><name>Zeynep Kaya</name><role>surveyor</role><phone>+90 212 555 0108</phone></person>
</contacts>
```
""",
    ),
    _item(
        "copy",
        "tense",
        """
Put this into the past tense and change nothing else.

Every morning the baker opens the shutters at five, before anybody else in the street is awake. He sweeps the step,
although it is clean, and puts the first tray into the oven. By six the smell reaches the corner, and the two nurses who
come off the night shift turn left instead of right. They buy one roll each and eat it on the bench. He never asks how
the night is. He gives them the ones that are a little too dark, because he knows that they like them, and he takes the
money for the pale ones. At seven the school children come and the quiet is over.
""",
    ),
]

# -- multi_turn -----------------------------------------------------------------------------------------------------

MULTI_TURN = [
    _item(
        "multi_turn",
        "soup",
        "What can I cook from lentils, two carrots, an onion and half a lemon?",
        "I'd rather have a soup. How much water for 200 grams of lentils?",
        "And how long does it cook?",
        "Write the whole recipe down for four people.",
    ),
    _item(
        "multi_turn",
        "sort",
        "Write a Python function that sorts a list of people, given as dicts with name and age, by age.",
        "Make it stable for equal ages, by name.",
        "Now add type hints and a docstring.",
        "And let the caller choose descending order.",
    ),
    _item(
        "multi_turn",
        "trip",
        "I have three days in Lisbon in November. What should I not miss?",
        "I don't like museums much. Replace them.",
        "Which of these can I do in the rain?",
        "Put it into a table: day, morning, afternoon, evening.",
    ),
    _item(
        "multi_turn",
        "letter",
        "Help me write to my landlord: the heating in the bathroom has been cold for two weeks.",
        "Make it friendlier, he is a nice man.",
        "Add that I am at home on Tuesday and Thursday afternoons.",
        "Good. Now shorten it to a text message.",
        "And translate that into French.",
    ),
    _item(
        "multi_turn",
        "french",
        'How do I say "I would like a table for two" in French?',
        "And if I have a reservation?",
        "How would the waiter answer that there is none left?",
    ),
    _item(
        "multi_turn",
        "budget",
        "I earn 2,400 a month after tax, rent is 950. How would you split the rest?",
        "I also pay 180 for a loan. Do it again.",
        "How long until I have saved 3,000 that way?",
    ),
    _item(
        "multi_turn",
        "quiz",
        "Ask me a geography question, not too hard.",
        "Is it the Danube?",
        "Another one, about Africa please.",
        "I give up. What is the answer?",
    ),
    _item(
        "multi_turn",
        "name",
        "I'm opening a shop for second-hand musical instruments. Suggest five names.",
        "I like short ones. Five more, at most two syllables each.",
        "Take the best one and write a slogan for it.",
        "Now an opening announcement of 50 words with that name and slogan.",
    ),
]

# -- tool_call ------------------------------------------------------------------------------------------------------

_TOOL_CALLS = (
    "alarm-wake-1", "song-by-1", "messages-two-1", "weather-three-1", "morning-1", "email-not-message-1", "travel-1",
    "days-1", "currency-decimal-1", "event-length-1", "url-1", "list-long-1", "email-letter-1",
)  # fmt: skip


def tool_calls() -> list[Item]:
    """Some items of the suite of phone actions, from short calls to long ones."""
    phone = {item.id: item for item in make_phone.items()}
    return [replace(phone[f"phone-{name}"], id=f"tool_call-{name}", kind="tool_call") for name in _TOOL_CALLS]


# -- long_prompt ----------------------------------------------------------------------------------------------------

_MINUTES = """
Minutes of the annual general meeting of the housing cooperative Lindenhof, held on 26 March in the hall of the old
brewery. Present: 61 members with 58 votes, the board (Edda Krohn in the chair, Bruno Tal, Samira Haddad), the auditor
(Mr. Pell), and from the municipality Ms. Orsini as a guest for item 4. Minutes: Felix Brandt. The meeting was opened at
18:35, after extra chairs had been fetched from the bowling alley.

Item 1, minutes of last year. Mrs. Adomeit pointed out that last year's minutes have her ask about the cellar door of
number 14, whereas she had asked about the cellar door of number 41. The number was corrected. The door of number 41
still does not close. Mr. Tal promised to look at it himself on Saturday. The minutes were approved with one abstention.

Item 2, report of the board. Ms. Krohn reported on a year with two surprises. The first was the frost in January, when
the main pipe between numbers 9 and 17 burst in the night from a Saturday to a Sunday. The repair itself cost 18,400
euros, of which the insurance has paid 15,100; the board has objected to the rest. She thanked those who carried water
to the upper floors, and above all the two students from number 12 who organised it with a list on the letter boxes and
a handcart. The second surprise was a good one: the foundation that owns the meadow behind the playground has offered to
lease it to the cooperative for twenty years, for a symbolic rent, on the condition that it is not built upon and that a
strip of ten metres along the brook is left alone. The board has asked for time until June. Of 148 flats, 146 are let.
The two others are being renovated after their tenants, who had lived there for 51 and 47 years, moved to the home in
Birch Street. The waiting list has 212 names. There were 9 changes of tenants, fewer than in any year since 1994.

From the floor, Mr. Novotny asked why the list is longer than last year although nobody had been added publicly. Ms.
Haddad explained that 40 names were found in a folder from 2015 that had never been typed in; all were written to, 22
answered that they were still interested, and these were put in with the date of their letter. Some members found this
unfair to those who had waited since. A show of hands was taken, without effect, to learn the mood: 31 found it right,
19 did not, the others could not decide.

Item 3, accounts. The auditor, Mr. Pell, presented the figures. Income from rents was 1,012,300 euros, 1.8 percent more
than in the year before, without any raise of rents; the difference comes from the two shops. Expenses were 934,700
euros. The largest were repairs (311,000), interest and repayment (287,500) and heating (164,200). The reserve for the
roofs stands at 402,000 euros. He had checked the books on two days in February and had nothing to object to except that
receipts of the garden group were handed in in a shoe box, unsorted, and that one of them was for a bottle of plum
brandy. The garden group explained the brandy with the planting of the plum tree. Mr. Pell recommended a second shoe
box. The accounts were approved unanimously, and the board was discharged with three abstentions, its own.

Item 4, district heating. Ms. Orsini of the municipality reported that the network will reach Linden Street in the
autumn of next year. If the cooperative decides by the end of September, the municipality bears the cost of the
connection up to the house walls. Inside, the cooperative would have to replace eleven gas boilers by transfer stations,
which two firms estimate at 390,000 and 436,000 euros. The state's grant would cover 35 percent, or 40 percent if all
eleven are replaced within two years. The price of heat is fixed for three years and then follows an index, of which
half depends on wages and a quarter on the price of wood. Mr. Tal set against this the costs of staying with gas: four
boilers are more than 25 years old and must be replaced in any case, for about 92,000 euros together.

The discussion took fifty minutes. Mrs. Adomeit asked whether it would get warm in her bathroom, which is at the end of
the line; Ms. Orsini said that this depends on the pipes in the house and not on the network. Mr. Yilmaz, who is a
heating engineer, advised to have the pipes flushed and balanced in any case, before anything else, and offered to draw
up a list of what to look at. Ms. Lorenz was worried about an index that nobody here can influence, and wanted to know
what had become of the idea of heat pumps. Mr. Tal answered that the noise would be allowed on the side of the street
only, that the transformer is too small, and that a new one costs about as much as the whole district heating. Mr.
Novotny asked for both calculations on one sheet of paper, without adjectives. This was met with applause. The board
will send that sheet to all members by 15 May, including what each variant means for a flat of 60 square metres over ten
years. An extraordinary meeting on 18 June is to decide. That proposal was accepted with 49 votes to 4, with 5
abstentions.

Item 5, the meadow. Ms. Haddad presented two sketches: one with an orchard, a hedge and benches, one with 24 vegetable
plots. The garden group is in favour of the orchard because plots, in its experience, begin with enthusiasm and end with
fences. Families from numbers 20 to 28 spoke for the plots. A mixture was proposed by Ms. Lorenz, 12 plots on the dry
side and the orchard near the brook. It was decided with a large majority to accept the lease, and to have the mixture
drawn until June by a group of five: Haddad, Lorenz, Yilmaz, and for the families Ms. Osei and Mr. Petit. There is a
budget of 6,000 euros for the first year. The goats that were mentioned by several children are to be examined.

Item 6, laundry rooms. The machines in numbers 3 and 30 will be replaced. The proposal to pay by card instead of tokens
failed with 20 votes to 33. The opening hours are extended to 22:00, on trial until the end of the year, on weekdays
only.

Item 7, elections. Mr. Tal's term ends; he stood again and was elected with 54 votes. As second auditor beside Mr. Pell,
Ms. Osei was elected with 50 votes, after Mr. Novotny had declined with thanks and a short speech about shoe boxes.

Item 8, guest flat. The flat on the ground floor of number 22, which has been empty since the office moved, is to become
a flat for guests of members. Mr. Petit had asked in three other cooperatives how they do it. Two of them let theirs by
the night for about 30 euros and have it cleaned by a firm; in the third one, members clean it themselves, and he had
been shown the oven. The board estimates 11,000 euros for a bathroom and furniture, and expects it to be used for 140
nights a year. Mrs. Adomeit wanted to know who hands out the key at night. Ms. Osei proposed a box with a code, as the
sports club has one. Mr. Brandt, who lives above it, asked that no more than two nights in a row be let to groups of
more than four. The guest flat was decided with 47 votes to 6, the box with a code with 40 to 12, and the two nights
were put into the rules. It will open in September. Members may book three months ahead, and no longer than ten nights
in a year, unless it would stand empty.

Item 9, other business. The stairwell lights in number 17 go out after forty seconds, which is enough for the third
floor but not for the fifth; the time will be doubled. Bicycles without tyres in the yard will be marked with a ribbon
at Easter and removed at Whitsun. Mrs. Adomeit reminded everybody of the summer party on 5 July and asked for somebody
who owns a tent. The chair closed the meeting at 21:20.
"""

_MANUAL = """
Tarn 3 electric kiln: instructions for use. Please read all of this before you switch the kiln on for the first time,
and keep it where others who use the kiln will find it.

1. Where it stands. The kiln weighs 74 kilograms empty and stands on its own frame. It needs a floor that does not burn:
tiles, stone or concrete. Keep 40 centimetres free on all sides and one and a half metres above the lid. Curtains,
paper, glaze in plastic tubs and solvents do not belong in the same room. The room must have a window that opens or a
fan, since clay gives off steam and, between 300 and 700 degrees, gases that smell and that nobody should breathe.
Children and animals stay out while the red lamp is lit. The lamp goes out when the kiln is below 60 degrees inside, and
not earlier.

2. Connection. The Tarn 3 needs a socket of its own with 230 volts and a fuse of 16 amperes. Do not use an extension
lead; the plug would become hot. If the fuse blows when the kiln is switched on, have the wiring checked before you try
again. In houses with several kilns, no two should be started within the same ten minutes.

3. First firing. New bricks hold moisture from the factory. Fire the kiln once empty, with the shelves in place and the
peephole open, with programme 1, which takes about seven hours. Some smoke and a smell of resin are normal. Afterwards
you will see fine cracks in the bricks. They are meant to be there: the brick moves with the heat, and each crack is
where it has found room. Only a crack that a coin fits into needs to be repaired, with the cement that is sold as part
T3-09.

4. Loading. Brush the shelves with kiln wash on their upper side and let it dry for a day. The first shelf stands on
three posts, two centimetres above the floor of the kiln, never directly on it. Three posts are better than four,
because three never wobble; place those of the next shelf exactly above those below. Unglazed pieces may touch each
other and may be stacked. Glazed ones may not: leave the width of a finger between them, and wipe the glaze off
everything that stands on the shelf, five millimetres up. Pieces must be dry. A piece that feels cold against your cheek
is still wet inside. Wet clay turns into steam at 100 degrees faster than the steam can leave, and the piece bursts,
often with its neighbours. Hollow forms need a hole. Keep three centimetres between the pieces and the tip of the
thermocouple, the ceramic rod that comes out of the back wall.

5. The controller. It has four buttons and a display. Press and hold the left button for two seconds to wake it. With
the arrows choose a programme from 1 to 9; the right button confirms. The display shows the temperature inside, and
while the kiln heats, a dot that blinks. Press the right button once during a firing to see how long it will still take,
twice to see what the target is. Hold it for five seconds to stop the firing. After a power cut of less than fifteen
minutes the firing goes on by itself; after a longer one the display shows P-F, and you decide: if the pieces had been
hotter than 600 degrees, start the same programme again, else let everything cool down and look at it first.

6. Programmes. Programme 1 is the first firing and the drying of shelves: 100 degrees an hour to 1,000 degrees, no soak.
Programme 2 is a slow bisque: 60 degrees an hour to 600, then 100 an hour to 960, soak of ten minutes. Use it for thick
pieces, for sculpture and for work by beginners. Programme 3 is a fast bisque, 120 degrees an hour to 960; cups and
plates of even thickness take it well. Programme 4 is for earthenware glazes: 150 an hour to 1,040, soak of fifteen
minutes. Programme 5 is for stoneware: 120 an hour to 600, 180 an hour to 1,220, soak of twenty minutes. Programme 6 is
the same with a slow cooling, 50 degrees an hour between 1,100 and 900, in which crystals and mat surfaces grow.
Programme 7 is for lustre and decals: 100 an hour to 760 with the peephole open until 500. Programmes 8 and 9 are empty
and yours; how to write them is in chapter 9.

7. During a firing. Leave the peephole open until 500 degrees so that steam and gases can leave, and then close it with
its plug. Never look into it without dark glasses, not even for a moment: what glows there harms the eye although it
does not hurt. The outside of the kiln gets as hot as an iron. Do not put anything on the lid. It is normal that relays
click, that the lamp flickers a little when they do, and that the case creaks. It is not normal that it hums loudly,
smells of burnt rubber or is slower than usual by more than an hour; then stop the firing and see chapter 10. Somebody
should be in the house during the last hour.

8. Cooling. The kiln cools by itself in ten to fourteen hours. Do not open the lid above 120 degrees. Glazes that cool
too fast crack with a sound like small bells, sometimes days later. Below 120 degrees you may prop the lid open by a
finger's width with a piece of brick; below 60 open it. Sharp drops of glaze on the shelves are as sharp as glass,
because that is what they are. Take them off with a stone, with glasses and gloves on.

9. Programmes of your own. Choose 8 or 9 and hold the right button until SEG 1 appears. Each programme has up to six
segments, and each of them a speed in degrees an hour, a target and a soak in minutes. Confirm each with the right
button. A speed of 999 means as fast as the kiln can. A target below the one before is a cooling, and the kiln then
heats just enough not to cool faster. A soak of 0 ends the segment at once. The last segment is followed by END. The
controller keeps what you have written without power. Write it down on paper as well.

10. When something is wrong. E-1: the thermocouple is broken or loose. Unplug the kiln, open the box at the back and see
whether a wire has come out; if not, order part T3-02. E-2: the kiln heats slower than 20 degrees an hour. Above 1,100
degrees this is a sign of old elements; measure them as shown on the sticker in the box and replace the set, T3-05, when
one of them is below 21 or above 27 ohms. Below 1,100 degrees, look for a relay that does not click. E-3: it is too hot
in the controller, more than 65 degrees. Move the kiln away from the wall. E-4: the lid was opened during the firing.
Close it and press the right button. No display: check the fuse, then the small fuse in the plug of the controller, 1
ampere, slow. If the pieces at the top are fired well and those at the bottom are not, load less at the bottom and
prolong the soak.

11. Care. Once a month, with the kiln unplugged, vacuum the grooves in which the elements lie, gently, with a brush. An
element that has come out of its groove can be pushed back while it is warm, never cold: cold it breaks. Tighten the
screws of the terminals once a year. The seal of the lid lives for about 150 firings. The thermocouple lives for about
200 firings at stoneware temperature and for many more at lower ones. Elements live for 80 to 120 firings. Note each
firing in the book that came with the kiln, with the date, the programme and how long it took; a firing that takes
longer and longer is how old elements announce themselves.
"""

_LETTER = """
Dear Tove,

You asked for a proper letter and not one of my postcards, so here it is, with everything in the order in which it
happened, except where I have forgotten the order.

We reached the island on the ninth, a day late. The mail boat does not leave when the timetable says but when the
skipper has found her reading glasses, without which, she told us, she can see the rocks but not the harbour fees. On
the way she showed us seals. Ole was sick and missed them, and has not forgiven the seals. The keeper's house is smaller
than in the photographs, because the photographs were taken from the only spot from which one sees three sides of it,
and that spot is in the sea. There is one room with a stove, one with two beds, a kitchen in which one person can cook
if the other one goes outside, and a tower with a lamp that has not been lit since 1987. From the gallery one can see
eleven other islands. I have counted them every evening and have come to eleven only twice.

The first week went into roofs. You will remember that the society had paid for a man to mend the tiles. He had come, in
June, and had mended them: on the boathouse. The boathouse is now the driest building north of the sixtieth parallel,
and the house dripped into seven pots, each with a note of its own. Ole, who is musical, moved them until they made a
chord. I took the ladder. I had never been on a roof before, and I should like it to be known that I laid a hundred and
twelve tiles and lost only one, and that nobody was standing where it came down. The trick is not to look at the sea.
The sea moves, and after a while the roof seems to move instead.

In the second week the birds came back, or we had time to hear them. You wanted numbers, so: 214 pairs of kittiwakes on
the north cliff, counted three times, with 209 and 220 as the other results. 31 pairs of eiders, of which nine nest so
close to the path that we had to move the path. Puffins I cannot count. They come out of the ground like thoughts, look
at you, and go back in. Last year's warden writes "about 90 burrows", and I have decided to believe him. One
white-tailed eagle, which sits on the beacon every morning between six and half past seven and ruins the breakfast of
all the others. And, on the 22nd, for one afternoon, a hoopoe, which has no business here at all. It walked across the
grass in front of the kitchen as if it had been sent to inspect it. I have a photograph in which you can see the grass.

On the 25th we had the storm that you will have read about. The radio had said eight, later nine, and then it said
nothing any more. We carried the boat up to the wall and tied it to the ring, and then we tied the ring to the wall,
because the ring did not look like much. All night long it sounded as if somebody was moving furniture in the tower. Ole
read aloud from the only book in the house that is not about engines, which is a Danish cookery book of 1911, and I can
tell you that a chapter on the boiling of tongue is a great comfort when the windows bend. In the morning the jetty had
lost eleven planks, there was a dead porpoise in front of the door of the privy, and the boat had not moved by a
centimetre. The ring had. It now hangs over the stove, as a warning.

Then nothing happened for ten days, and those were the best. The work made itself into a day. Up at five, the cliff, the
eiders, breakfast. Then the path, where we replaced the rotten posts, forty-three of them, each of which had to be
carried from the landing on the shoulder, so that I now have one shoulder for posts and one for everything else. At noon
bread and something from a tin. In the afternoon the records: somebody in the fifties measured the temperature of the
sea each day at two, and the next warden did so as well, and the next, until nobody dared to be the one who stopped. So
every day at two I throw the bucket with the thermometer from the end of the jetty, where the end of the jetty now is.
The lowest was 8.4 degrees, the highest 13.1. In 1959 the lowest in the same weeks was 6.9. I have looked at the whole
column, sixty-odd years in four kinds of ink, and it goes up as slowly as a tide, so that nobody who wrote in it can
have seen it.

About the well: it is not dry, as the last report has it. The pump was mounted upside down. We found out when Ole, in a
temper, pumped in the wrong direction, and was rewarded with a cup of rust and then with water as clear as gin. We sent
a sample over with the skipper, and the laboratory writes that one may drink it if one boils it, and that it contains
more iron than the pump does. The rain barrels are sound except for the one behind the tower, in which something lives.
I have looked at it with the torch and it has looked back. We have agreed that this is its barrel. For washing there is
the sea, eight to thirteen degrees, see above, into which I go every morning and Ole on Sundays. In the shed we found
the parts of a shower which somebody must have ordered in better times, with instructions in Finnish, and it now stands
next to the boathouse, painted green, waiting for a summer that is warm enough.

You will want to know about the visitor. On the 6th a man arrived in a kayak, wet, very polite, and asked whether he
could dry his socks. He stayed for three days. He had set out from the mainland in May to go around all the islands in
this county that have a lighthouse, fifty-four of them, and ours was the fifty-second. His wife, he told us, had drawn
the list, with the distances and the currents and the places where one can land, and had wanted to come along, and had
died in March. He did not say much more about it. In the evening he went up to the gallery with his list and counted the
islands, and he came to eleven at once. On the last day he repaired the hinge of the lamp room, which squeals, or did.
We have his address, and he has yours, because he wants to know whether the hoopoe comes back.

The supplies came on the 12th with the wrong coffee and the right screws. Ole has learned to bake. The first loaf we
used as a doorstop, the third we ate, the fifth we gave to the skipper, who said that it was bread, and she is not a
woman who flatters. I have learned how to splice rope, to tell a guillemot from a razorbill at three hundred metres, and
to be silent for a whole forenoon without being asked what is the matter. I had thought that I would miss the telephone.
I miss trees. When the wind is from the east I believe I can smell them.

We leave on the 28th, if the glasses are found. The society should know the following, and since you are its secretary I
put it here so that you can copy it out. First, the jetty needs twelve planks (eleven that are gone and one that is
going). Second, the tiles: there are nineteen left in the boathouse, which needs none. Third, the stove pipe must be
swept before winter, the starlings have plans for it. Fourth, please somebody send a second book. Fifth, the next warden
should be told that the thermometer reads 0.3 degrees too high; I compared it with the one from the first-aid kit, and I
have written it on the inside of the cupboard door, because that is where I would look. Sixth, we should like to come
back.

With love to you and the dog, and do not believe what Ole tells you about the roof.

Yours, Signe
"""


def _tickets(name: str) -> str:
    """A help desk's tickets: a heading, what the customer wrote, what was done."""
    generator = random.Random(name)
    products = ["the tablet app", "the web shop", "the scanner", "the label printer", "the till", "the stock list"]
    people = ["Amara", "Bodil", "Caspar", "Dunja", "Emre", "Fleur", "Goran", "Hye-jin", "Ivo", "Jette"]
    complaints = [
        "{p} closes by itself as soon as I rotate the screen, since the update of last week",
        "{p} shows yesterday's prices until I sign out and in again",
        "the receipt from {p} has the date in the wrong order, our accountant sent it back",
        "after lunch nobody could sign in to {p}, then suddenly everybody could",
        "I cannot find where to change the language of {p}, it came in Dutch",
        "{p} beeps twice for every article and books it only once",
        "our new colleague does not see the branch in Weller Street in {p}, all others do",
        "{p} is so slow on Saturdays that customers leave",
        "the total in {p} differs by one cent from the sum of the lines",
        "{p} asks for an update, installs it, and asks again",
        "when I search for an umlaut in {p}, it finds nothing, although the article is there",
        "I deleted a customer in {p} by mistake and would very much like to have her back",
        "the keyboard covers the button that I need in {p}",
        "since the power cut {p} believes that it is 2019",
    ]
    actions = [
        "asked for the version and a photo of the screen; the photo shows an old version, update sent",
        "could be repeated here, passed on to development with the steps",
        "was a wrong setting of the time zone, corrected by phone, customer happy",
        "cache cleared, works again; the cause is unknown, please watch",
        "restored from the backup of the night, three hours of work",
        "explained, and the explanation added to the handbook because it was the fourth time this month",
        "cable was loose, which took us two days and the customer ten seconds",
        "no answer to two mails, closed",
        "a known error, repaired in the coming release, customer gets a note",
        "rights were missing for one branch, added after asking the manager",
        "device exchanged, the old one is on its way back to us",
        "rounding differs between the two parts of the program; development says it is right, the customer says it is"
        " not, and the customer has a point",
    ]
    days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]
    lines = []
    for number in range(1, 46):
        product = generator.choice(products)
        complaint = generator.choice(complaints).format(p=product)
        state = generator.choice(["closed", "closed", "open", "waiting for customer"])
        lines.append(
            f"Ticket {4100 + number * 3}, {generator.choice(days)}, {generator.choice(people)}, {state}."
            f' Customer: "{complaint[0].upper()}{complaint[1:]}." We: {generator.choice(actions)}.'
        )
    return "\n".join(lines)


def _diary(name: str) -> str:
    """What a volunteer at a toad fence wrote, evening by evening."""
    generator = random.Random(name)
    weather = [
        "drizzle, mild",
        "clear and cold",
        "steady rain",
        "wind from the west, dry",
        "fog",
        "warm for the season",
    ]
    events = [
        "Two of the buckets stood under water and had to be dug out again.",
        "A school class came along and carried everything, including what did not want to be carried.",
        "One driver stopped, opened the window, and asked whether we had lost something.",
        "The fence was lying down over a length of three metres, probably a boar.",
        "A male held on to my thumb and would not be persuaded that it was a thumb.",
        "We found a fire salamander at the culvert, the first one since the road was widened.",
        "The heron was there before us, and did not need a lamp.",
        "Batteries of the head torch empty after an hour; counted the last section by moonlight.",
        "The forester brought new posts and a thermos flask.",
        "Nobody came to relieve me, so I did both sections.",
        "One toad had been run over at the gap near the milestone, where the fence is too short.",
        "Newts only in the last three buckets, as if they had agreed on it.",
        "Somebody had put a garden gnome into bucket nine. We carried it across.",
        "Spawn in the ditch already, although the pond still has ice at its edge.",
        "The new stickers on the buckets came off in the rain.",
        "A cyclist helped for half an hour and left his card: he repairs accordions.",
        "Two pairs in bucket four, the males shouting at each other.",
        "The road was closed for a film crew, which was the best night for toads in years.",
        "Hardly anything moving before ten, then everything at once.",
        "Our oldest volunteer found a toad that she believes to know from last year by its left eye.",
        "Lost a boot in the ditch, and found another one that is not mine.",
        "The farmer asks us to keep the gate shut because of the heifers.",
        "A marten sat on the fence post and watched us count.",
        "Bucket twelve has a crack; put a stone over it for tonight.",
        "All animals small, perhaps those that hatched in the wet year.",
        "Sleet after midnight, and still the frogs came.",
        "The police stopped and wanted to know what is in the buckets. They stayed until the end.",
        "A beetle as long as a finger, released with ceremony.",
        "First toads walking back from the pond, on the wrong side of the fence.",
        "Gave an interview to the local radio, with croaking.",
        "The sign that asks for 30 was stolen, which drivers seem to have noticed.",
        "We are running out of gloves in small sizes.",
        "Counted by the light of a telephone, so the newts may be more.",
        "Blackbirds singing until eleven because of the street lamp.",
        "A grass snake under the board at the milestone, half asleep.",
        "Nothing at all in the eastern section, for the third night.",
        "The doctor on her way to the hospital slowed down and waved.",
        "Ice on the buckets in the morning, all animals well.",
        "We tried the smaller buckets; they are too small.",
        "Three boys on mopeds carried eleven toads and were proud of it.",
        "The pond keeper says that the water stands a hand higher than last spring.",
        "Found the missing clipboard. It had been in the tree all along.",
        "A hedgehog walked along the fence as if it had been built for it.",
        "The volunteers' list for May has four empty evenings.",
        "One bucket stolen, one returned, not the same.",
        "Fog so thick that we found the buckets by kicking them.",
        "A female with a string of spawn already; brought her across first.",
        "The owl called from eight until we left.",
        "Thunder far away; animals restless, so were we.",
        "Someone drives this road each night at 22:40 and always too fast.",
        "A visitor from the next valley wants to build the same fence and took measurements.",
        "My grandson asked whether toads have grandmothers.",
        "Took down the first twenty metres, where nobody crosses any more.",
        "Last regular evening; cake at the milestone.",
    ]
    volunteers = [
        "Rita and Paul",
        "the Hansens",
        "Malik alone",
        "Gesa with her grandson",
        "the scouts",
        "Rita and Gesa",
    ]
    generator.shuffle(events)
    lines = []
    for day in range(48):
        date = f"{datetime.date(2026, 3, 22) + datetime.timedelta(day):%d %B}".lstrip("0")
        toads, frogs, newts = generator.randrange(0, 90), generator.randrange(0, 30), generator.randrange(0, 12)
        event = " ".join(events[(day + extra * 20) % len(events)] for extra in range(generator.choice([1, 1, 2])))
        lines.append(
            f"{date}: {generator.choice(weather)}. {generator.choice(volunteers)}. {toads} toads, {frogs} frogs,"
            f" {newts} newts. {event}"
        )
    return "\n".join(lines)


def _service_log(name: str) -> str:
    """A service's log with a fault that grows."""
    generator = random.Random(name)
    usual = [
        "INFO gateway: request accepted, route=orders, customer={c}",
        "INFO orders: order stored, customer={c}, lines={n}",
        "INFO mailer: confirmation sent, customer={c}",
        "INFO stock: reserved {n} of article {a}",
        "DEBUG cache: hit, key=article/{a}",
        "DEBUG cache: miss, key=article/{a}, loading from the database",
        "INFO invoices: document rendered, pages={n}",
        "WARN gateway: slow response, route=search, waited for the index",
    ]
    faulty = [
        "WARN stock: lock on article {a} not available, trying again",
        "ERROR stock: gave up waiting for the lock on article {a}, held by worker {w}",
        "WARN orders: order of customer {c} not stored, stock did not answer in time",
        "ERROR mailer: connection refused by the relay, message for {c} put back into the queue",
        "WARN pool: {n} of 8 connections in use, oldest borrowed by worker {w}",
    ]
    articles = ["teapot", "lamp", "rug", "chair", "vase", "mirror", "clock", "kettle"]
    customers = ["nordwind", "atelier-b", "cafe-luna", "hotel-krone", "school-7", "maas", "private"]
    lines, minute = [], 0
    for number in range(150):
        minute += generator.choice([0, 0, 1])
        line = generator.choice(faulty if generator.random() < number / 250 else usual).format(
            c=generator.choice(customers), a=generator.choice(articles), n=generator.randrange(2, 9),
            w=generator.choice("ABCD"),
        )  # fmt: skip
        lines.append(f"14:{minute:02} {line}")
    return "\n".join(lines)


def _inspections(name: str) -> str:
    """Reports on playgrounds, one paragraph each."""
    generator = random.Random(name)
    places = [
        "Mill Pond", "Castle Slope", "Old Tram Depot", "Rose Court", "Quarry Lane", "North Quay", "Saint Anne's",
        "Weir Park", "Potters' Field", "Station Garden", "Larch Close", "Harvest Square", "Canal Bend",
        "Upper Green", "Hospital Wood", "Brick Yard", "Lock Keeper's Meadow", "Three Limes", "Chapel Hill",
        "Tannery Row", "Goose Common",
    ]  # fmt: skip
    devices = [
        ("the large swing", ["one chain worn to half its thickness", "seats brittle but safe", "without fault"]),
        (
            "the slide",
            ["a screw sticks out at the left side", "landing mat torn", "polished and quick", "without fault"],
        ),
        ("the climbing net", ["two knots have come loose", "a pole moves in the ground", "without fault"]),
        ("the sandpit", ["sand due to be changed", "cover missing", "glass found and removed", "freshly filled"]),
        ("the seesaw", ["bearing dry and loud", "rubber under one end gone", "without fault"]),
        ("the roundabout", ["turns too heavily", "gap to the ground too wide", "without fault"]),
        ("the wooden tower", ["soft wood at the foot of two posts", "roof leaks", "new railing holds well"]),
        ("the benches", ["slats missing on one of them", "painted last month", "one of them facing the wrong way"]),
    ]
    remarks = [
        "Parents asked for shade on the south side.", "The gate does not close by itself.", "Wasps under the eaves.",
        "A neighbour complains about the noise of the seesaw, not of the children.", "Litter bins full to the brim.",
        "Children present during the inspection gave useful hints.", "The hedge hides the playground from the street.",
        "Drinking fountain works again after the repair.", "Somebody has drawn a very good whale on the wall.",
    ]  # fmt: skip
    verdicts = [
        "may stay open",
        "may stay open",
        "repair within a month",
        "repair within a week",
        "closed until repaired",
    ]
    inspectors = ["Abel", "Mrs. Quint", "Dorota"]
    paragraphs = []
    for place in places:
        seen = generator.sample(devices, 5)
        findings = "; ".join(f"{device}: {generator.choice(states)}" for device, states in seen)
        paragraphs.append(
            f"{place}. Inspected by {generator.choice(inspectors)} on a {generator.choice(['dry', 'wet', 'windy'])}"
            f" {generator.choice(['morning', 'afternoon'])}. Found: {findings}."
            f" {' '.join(generator.sample(remarks, 2))}"
            f" In the last report: {generator.choice(['nothing', 'the same', 'a loose board', 'a step', 'moss'])}."
            f" Next visit in {generator.choice(['four', 'six', 'eight', 'twelve'])} weeks. Verdict: "
            f"{generator.choice(verdicts)}."
        )
    return "\n\n".join(paragraphs)


def _household(name: str) -> str:
    """A shared flat's cash book as a table."""
    generator = random.Random(name)
    shops = {
        "market": ["apples and leeks", "potatoes, a whole sack", "cherries, too many", "eggs and honey", "mushrooms"],
        "supermarket": ["the weekly shopping", "milk, oats, coffee", "cat food", "cleaning things"],
        "hardware store": ["shower head", "light bulbs", "glue for the chair", "hooks", "paint, white"],
        "baker": ["rolls for Sunday", "bread and a cake", "birthday cake"],
        "pharmacy": ["plasters and tea", "sun cream", "something for the cat"],
        "post office": ["parcel to Ada's mother", "stamps", "the form for the broadband"],
        "bar": ["farewell for Nico", "pizza on the day of the flood", "quiz night"],
    }  # fmt: skip
    people = ["Ada", "Nico", "Wren", "Yusuf"]
    months = ["January", "February", "March", "April", "May"]
    lines = ["| month | who paid | where | what for | euros | shared by |", "|---|---|---|---|---|---|"]
    for number in range(100):
        shop = generator.choice(list(shops))
        shared = generator.sample(people, generator.choice([2, 3, 4, 4]))
        lines.append(
            f"| {months[number * len(months) // 100]} | {generator.choice(people)} | {shop} |"
            f" {generator.choice(shops[shop])} | {generator.randrange(2, 80)} |"
            f" {'all' if len(shared) == 4 else ' and '.join(sorted(shared))} |"
        )
    return "\n".join(lines)


def long_prompts() -> list[Item]:
    """A document and what is asked of it, in the order in which they come."""
    parts = {
        "minutes": (
            _unwrapped(_MINUTES),
            "I could not be there. What was decided, what is still open, and by when do I have to think about the"
            " heating?",
        ),
        "manual": (
            _unwrapped(_MANUAL),
            "My cups came out with dull glaze at the bottom of the kiln and shiny at the top, and the firing took an"
            " hour and a half longer than last month. What does the manual say about that, and what should I do first?",
        ),
        "letter": (
            "Read this letter and write down, as a numbered list, what the society has to do before next season. Then"
            " tell me who the visitor was.",
            _unwrapped(_LETTER),
        ),
        "tickets": (
            "These are our help desk's tickets of two weeks. Group them by cause, say how many there are of each, and"
            " suggest the three changes that would help most.",
            _tickets("tickets"),
        ),
        "diary": (
            _diary("diary"),
            "That is our book from the toad fence. Write a report of 200 words for the newsletter, with the best and"
            " the worst night and two anecdotes.",
        ),
        "log": (
            "When did this begin to go wrong, which component failed first, and what would you look at next?",
            f"```\n{_service_log('log')}\n```",
        ),
        "inspections": (
            _inspections("inspections"),
            "Which playgrounds are closed or must be repaired within a week, and why? A table with place, defect and"
            " deadline, please.",
        ),
        "household": (
            _household("household"),
            "What stands out in how we spend our money? Name the three shops where we pay most often and who seems to"
            " pay for what.",
        ),
    }
    return [_asked("long_prompt", name, "\n\n".join(each)) for name, each in parts.items()]


def items() -> list[Item]:
    """All workloads, the same each time."""
    return [*CHAT, *tool_calls(), *SUMMARISE, *CODE, *COPY, *MULTI_TURN, *long_prompts()]


if __name__ == "__main__":
    FILE.write_text(make_phone.text(items()), "utf-8")
