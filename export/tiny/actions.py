"""The phone actions that the tiny pair learns: how people ask for them, and how tools describe them.

An action is a concept, not a tool. A conversation dresses each action it offers as a tool: a name (natural or made
up), one of the descriptions, and parameters whose names and descriptions are drawn per conversation. Only the meaning
stays the same, so a model must read the declarations instead of remembering names.

`phrasings` are seen in training; `held_out` phrasings appear only in the new-templates split. `bare` requests lack
the required value, and `question` is the reply to them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """A parameter as a concept: JSON-schema type, natural names, short descriptions."""

    type: str
    names: tuple[str, ...]
    descriptions: tuple[str, ...]


@dataclass(frozen=True)
class Action:
    """A phone action: natural tool names, descriptions, and slots in the order in which people name them."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    slots: tuple[str, ...]
    phrasings: tuple[str, ...]
    held_out: tuple[str, ...]
    does: str
    bare: tuple[str, ...] = ()
    question: str = ""


SLOTS: dict[str, Slot] = {
    "time": Slot("string", ("time", "at", "clock_time", "when"), ("time as HH:MM", "24-hour time", "clock time HH:MM")),
    "hour": Slot("integer", ("hour", "hours", "hh"), ("hour from 0 to 23", "hour of the day")),
    "minute": Slot("integer", ("minute", "mins", "mm"), ("minute from 0 to 59", "minute of the hour")),
    "minutes": Slot(
        "integer", ("minutes", "duration", "length"), ("number of minutes", "length in minutes", "how many minutes")
    ),
    "contact": Slot(
        "string",
        ("contact", "name", "person", "recipient", "to"),
        ("contact name", "name of the person", "who to reach"),
    ),
    "message": Slot("string", ("message", "text", "body"), ("message text", "what to say", "words to send")),
    "note": Slot("string", ("note", "content", "text"), ("text of the note", "what to write", "words to keep")),
    "task": Slot("string", ("task", "what", "about"), ("what to remember", "task text", "thing to do")),
    "item": Slot("string", ("item", "product", "thing"), ("item to buy", "what to buy", "thing for the list")),
    "title": Slot("string", ("title", "event", "subject"), ("event title", "name of the event", "what it is")),
    "day": Slot("string", ("day", "date", "on_day"), ("day of the event", "which day", "day name")),
    "place": Slot("string", ("place", "location", "city", "where"), ("place name", "name of the place", "where")),
    "song": Slot("string", ("song", "track", "title"), ("song name", "what to play", "name of the track")),
    "app": Slot("string", ("app", "app_name", "application"), ("app name", "name of the app", "which app")),
    "query": Slot("string", ("query", "q", "terms"), ("search words", "what to look for", "words to search")),
    "phrase": Slot("string", ("phrase", "text", "source"), ("text to translate", "words to translate")),
    "language": Slot("string", ("language", "lang", "target"), ("target language", "language to use")),
    "level": Slot("integer", ("level", "percent", "value"), ("level from 0 to 100", "percent", "new level")),
    "degrees": Slot("integer", ("degrees", "temperature", "target"), ("degrees", "target temperature")),
    "amount": Slot("integer", ("amount", "sum", "dollars"), ("amount in dollars", "how much money")),
    "on": Slot("boolean", ("on", "enabled", "state"), ("true to turn on", "on or off", "wanted state")),
}

# Parameters that some tools offer but no request uses: the model must leave them out.
UNUSED: tuple[Slot, ...] = (
    Slot("boolean", ("silent", "quiet"), ("without sound", "no sound")),
    Slot("boolean", ("repeat", "daily"), ("every day", "repeat daily")),
    Slot("string", ("color", "theme"), ("color to show", "color of the icon")),
    Slot("integer", ("priority", "rank"), ("priority from 1 to 5", "how urgent")),
)

ACTIONS: dict[str, Action] = {
    "alarm": Action(
        ("set_alarm", "create_alarm", "wakeUp", "alarm"),
        ("Set an alarm", "Set an alarm for a time", "Ring an alarm at a given time", "Wake the user at a time"),
        ("time",),
        (
            "wake me at {time}",
            "wake me up at {time}",
            "set an alarm for {time}",
            "set my alarm to {time}",
            "I need an alarm at {time}",
            "I have to get up at {time}",
            "alarm at {time}",
            "make sure I am awake by {time}",
        ),
        ("get me out of bed at {time}", "put an alarm on for {time}", "I want to wake up at {time}"),
        "set an alarm",
        ("wake me up", "set an alarm", "I need an alarm"),
        "What time should the alarm ring?",
    ),
    "timer": Action(
        ("set_timer", "start_timer", "startCountdown", "timer"),
        ("Start a timer", "Count down some minutes", "Start a countdown timer", "Set a kitchen timer"),
        ("minutes",),
        (
            "set a timer for {minutes} minutes",
            "start a {minutes} minute timer",
            "count down {minutes} minutes",
            "timer for {minutes} minutes",
            "give me a countdown of {minutes} minutes",
            "tell me when {minutes} minutes are over",
            "start a countdown of {minutes} minutes",
        ),
        ("put {minutes} minutes on the timer", "let me know after {minutes} minutes"),
        "start a timer",
        ("start a timer", "set a timer", "start a countdown"),
        "For how many minutes?",
    ),
    "message": Action(
        ("send_message", "send_sms", "textContact", "message"),
        ("Send a text message", "Send a message to a contact", "Text a person", "Write an SMS to someone"),
        ("contact", "message"),
        (
            "text {contact} {message}",
            "tell {contact} {message}",
            "send {contact} a message saying {message}",
            "message {contact} that {message}",
            "send a text to {contact}: {message}",
            "write to {contact} that {message}",
            "let {contact} know that {message}",
        ),
        ("drop {contact} a line: {message}", "send the words {message} to {contact}"),
        "send messages",
        ("send a message", "text someone", "write a message for me"),
        "Who should get the message, and what should it say?",
    ),
    "call": Action(
        ("call_contact", "make_call", "dialNumber", "phone"),
        ("Call a contact", "Make a phone call", "Phone a person", "Start a voice call with someone"),
        ("contact",),
        (
            "call {contact}",
            "phone {contact}",
            "ring {contact} for me",
            "make a call to {contact}",
            "give {contact} a call",
            "I want to talk to {contact}",
            "start a call with {contact}",
            "dial {contact}",
        ),
        ("get {contact} on the phone", "I need to speak with {contact}"),
        "make calls",
        ("make a call", "call someone", "start a phone call"),
        "Who should I call?",
    ),
    "event": Action(
        ("create_event", "add_event", "addToCalendar", "calendar"),
        ("Add a calendar event", "Create an event in the calendar", "Put an appointment in the calendar"),
        ("title", "day"),
        (
            "add {title} to my calendar on {day}",
            "put {title} in the calendar for {day}",
            "create an event {title} on {day}",
            "schedule {title} for {day}",
            "I have {title} on {day}, add it to my calendar",
            "plan {title} on {day}",
        ),
        ("make an appointment for {title} on {day}", "my calendar should show {title} on {day}"),
        "add calendar events",
        ("add an event to my calendar", "schedule something", "create an event"),
        "What is the event, and on which day?",
    ),
    "music": Action(
        ("play_music", "play_song", "startPlayback", "player"),
        ("Play a song", "Play music", "Start playing a track", "Play a song by its name"),
        ("song",),
        (
            "play {song}",
            "play the song {song}",
            "put on {song}",
            "I want to hear {song}",
            "start playing {song}",
            "play me {song}",
            "let me listen to {song}",
        ),
        ("can we have the track {song}", "start the music with {song}"),
        "play music",
        ("play a song", "play some music", "put on a song"),
        "Which song?",
    ),
    "volume": Action(
        ("set_volume", "change_volume", "soundLevel", "volume"),
        ("Set the volume", "Change the sound volume", "Set how loud the phone is"),
        ("level",),
        (
            "set the volume to {level}",
            "volume to {level} percent",
            "change the volume to {level}",
            "turn the sound to {level}",
            "make the sound {level} percent loud",
            "put the volume at {level}",
        ),
        ("I want the volume at {level}", "sound level {level}"),
        "change the volume",
        ("change the volume", "set the volume"),
        "Which volume level?",
    ),
    "brightness": Action(
        ("set_brightness", "screen_brightness", "dimScreen", "brightness"),
        ("Set the screen brightness", "Change how bright the screen is", "Dim or brighten the screen"),
        ("level",),
        (
            "set the brightness to {level}",
            "screen brightness {level} percent",
            "dim the screen to {level}",
            "make the screen {level} percent bright",
            "change the brightness to {level}",
            "put the brightness at {level} percent",
        ),
        ("I want the screen at {level}", "brighten the screen to {level}"),
        "change the brightness",
        ("change the brightness", "dim the screen"),
        "Which brightness level?",
    ),
    "wifi": Action(
        ("set_wifi", "toggle_wifi", "switchWifi", "wifi"),
        ("Turn wifi on or off", "Switch the wifi", "Control the wifi connection"),
        ("on",),
        (
            "turn {on} the wifi",
            "turn wifi {on}",
            "switch the wifi {on}",
            "wifi {on}",
            "I want the wifi {on}",
            "switch {on} wifi",
        ),
        ("the wifi should be {on}", "put wifi {on}"),
        "switch the wifi",
    ),
    "bluetooth": Action(
        ("set_bluetooth", "toggle_bluetooth", "switchBluetooth", "bluetooth"),
        ("Turn bluetooth on or off", "Switch bluetooth", "Control the bluetooth radio"),
        ("on",),
        (
            "turn {on} bluetooth",
            "turn bluetooth {on}",
            "switch bluetooth {on}",
            "bluetooth {on}",
            "I want bluetooth {on}",
            "switch {on} the bluetooth",
        ),
        ("bluetooth should be {on}", "put the bluetooth {on}"),
        "switch bluetooth",
    ),
    "flashlight": Action(
        ("set_flashlight", "toggle_torch", "flashLight", "torch"),
        ("Turn the flashlight on or off", "Switch the torch", "Control the flashlight"),
        ("on",),
        (
            "turn {on} the flashlight",
            "turn the torch {on}",
            "flashlight {on}",
            "switch the flashlight {on}",
            "torch {on}",
            "I need the flashlight {on}",
        ),
        ("the torch should be {on}", "put the flashlight {on}"),
        "switch the flashlight",
    ),
    "navigate": Action(
        ("navigate_to", "get_directions", "startRoute", "maps"),
        ("Navigate to a place", "Show the way to a place", "Start directions to a place", "Find a route"),
        ("place",),
        (
            "navigate to {place}",
            "take me to {place}",
            "how do I get to {place}",
            "show me the way to {place}",
            "directions to {place}",
            "start a route to {place}",
            "I want to drive to {place}",
        ),
        ("guide me to {place}", "find the route to {place}"),
        "give directions",
        ("start navigation", "show me the way", "give me directions"),
        "Where do you want to go?",
    ),
    "weather": Action(
        ("get_weather", "weather_report", "showForecast", "forecast"),
        ("Get the weather", "Show the weather forecast for a place", "Weather report for a city"),
        ("place",),
        (
            "what is the weather in {place}",
            "weather in {place}",
            "how is the weather in {place}",
            "will it rain in {place}",
            "show the forecast for {place}",
            "tell me the weather for {place}",
            "is it cold in {place}",
        ),
        ("do I need an umbrella in {place}", "what does the forecast say for {place}"),
        "check the weather",
        ("how is the weather", "show the forecast"),
        "For which place?",
    ),
    "app": Action(
        ("open_app", "launch_app", "startApp", "launcher"),
        ("Open an app", "Launch an app by name", "Start an application"),
        ("app",),
        (
            "open {app}",
            "launch {app}",
            "start the {app} app",
            "open the app {app}",
            "launch the {app} app",
            "show me the {app} app",
        ),
        ("bring up {app}", "I want to use the {app} app"),
        "open apps",
        ("open an app", "launch an app"),
        "Which app?",
    ),
    "note": Action(
        ("create_note", "save_note", "writeNote", "notes"),
        ("Save a note", "Write a note", "Create a new note with some text"),
        ("note",),
        (
            "make a note: {note}",
            "write down {note}",
            "save a note that says {note}",
            "note that {note}",
            "create a note saying {note}",
            "take a note: {note}",
        ),
        ("jot down {note}", "put {note} in my notes"),
        "save notes",
        ("make a note", "take a note", "create a note"),
        "What should the note say?",
    ),
    "remind": Action(
        ("add_reminder", "set_reminder", "remindMe", "reminder"),
        ("Set a reminder", "Remind the user of a task", "Add a reminder for a time"),
        ("task", "time"),
        (
            "remind me to {task} at {time}",
            "set a reminder to {task} at {time}",
            "at {time} remind me to {task}",
            "add a reminder for {time} to {task}",
            "remind me at {time} to {task}",
            "I must {task} at {time}, remind me",
        ),
        ("do not let me forget to {task} at {time}", "give me a reminder to {task} at {time}"),
        "set reminders",
        ("set a reminder", "remind me of something", "add a reminder"),
        "What should I remind you of, and when?",
    ),
    "shopping": Action(
        ("add_to_list", "shopping_list_add", "addItem", "groceries"),
        ("Add an item to the shopping list", "Put something on the shopping list", "Extend the grocery list"),
        ("item",),
        (
            "add {item} to the shopping list",
            "put {item} on my shopping list",
            "we need to buy {item}",
            "add {item} to my list",
            "shopping list: {item}",
            "I have to buy {item}",
        ),
        ("we are out of {item}", "put {item} on the grocery list"),
        "change the shopping list",
        ("add something to the shopping list", "put something on my list"),
        "What should I add to the list?",
    ),
    "translate": Action(
        ("translate_text", "translate", "translateTo", "translator"),
        ("Translate text", "Translate words into a language", "Say a phrase in another language"),
        ("phrase", "language"),
        (
            "translate {phrase} to {language}",
            "translate {phrase} into {language}",
            "how do I say {phrase} in {language}",
            "what is {phrase} in {language}",
            "say {phrase} in {language}",
            "give me {phrase} in {language}",
        ),
        ("I need {phrase} in {language}", "what does {phrase} become in {language}"),
        "translate",
        ("translate something", "translate a phrase for me"),
        "What should I translate, and into which language?",
    ),
    "search": Action(
        ("search_web", "web_search", "lookUp", "search"),
        ("Search the web", "Look something up on the internet", "Find pages on the web"),
        ("query",),
        (
            "search the web for {query}",
            "look up {query}",
            "search for {query}",
            "find {query} on the internet",
            "google {query}",
            "look for {query} online",
        ),
        ("what can you find about {query}", "do a web search for {query}"),
        "search the web",
        ("search the web", "look something up", "search for something"),
        "What should I search for?",
    ),
    "heating": Action(
        ("set_temperature", "set_heating", "heatTo", "thermostat"),
        ("Set the room temperature", "Set the heating to some degrees", "Control the thermostat"),
        ("degrees",),
        (
            "set the temperature to {degrees} degrees",
            "heat the room to {degrees} degrees",
            "set the heating to {degrees}",
            "make it {degrees} degrees in here",
            "thermostat to {degrees}",
            "warm the house to {degrees} degrees",
        ),
        ("I want it {degrees} degrees warm", "turn the heating to {degrees} degrees"),
        "set the temperature",
        ("change the temperature", "set the heating"),
        "To how many degrees?",
    ),
    "pay": Action(
        ("send_money", "pay_contact", "transferMoney", "wallet"),
        ("Send money to a person", "Pay a contact", "Transfer money to someone"),
        ("amount", "contact"),
        (
            "send {contact} {amount} dollars",
            "pay {contact} {amount} dollars",
            "send {amount} dollars to {contact}",
            "transfer {amount} dollars to {contact}",
            "give {contact} {amount} dollars",
            "I owe {contact} {amount} dollars, pay it",
        ),
        ("{contact} should get {amount} dollars from me", "wire {amount} dollars to {contact}"),
        "send money",
        ("send money", "pay someone", "transfer some money"),
        "Who should get the money, and how much?",
    ),
    "photo": Action(
        ("take_photo", "take_picture", "snapPhoto", "camera"),
        ("Take a photo", "Take a picture with the camera", "Use the camera"),
        (),
        (
            "take a photo",
            "take a picture",
            "snap a photo",
            "I want a picture of this",
            "use the camera",
            "photo please",
        ),
        ("capture this with the camera", "get a shot of this"),
        "take photos",
    ),
    "battery": Action(
        ("battery_status", "get_battery", "batteryLevel", "power"),
        ("Get the battery level", "Tell how full the battery is", "Report the battery charge"),
        (),
        (
            "how full is my battery",
            "what is the battery level",
            "check the battery",
            "how much battery is left",
            "battery level",
            "do I need to charge my phone",
        ),
        ("how much charge do I have", "is the battery low"),
        "check the battery",
    ),
    "airplane": Action(
        ("set_airplane_mode", "airplane_mode", "flightMode", "offline"),
        ("Turn airplane mode on or off", "Switch flight mode", "Control airplane mode"),
        ("on",),
        (
            "turn {on} airplane mode",
            "airplane mode {on}",
            "switch flight mode {on}",
            "turn flight mode {on}",
            "switch {on} airplane mode",
            "I want flight mode {on}",
        ),
        ("airplane mode should be {on}", "put flight mode {on}"),
        "switch airplane mode",
    ),
}

# Small talk: (requests, reply).
CHAT: tuple[tuple[tuple[str, ...], str], ...] = (
    (("hello", "hi", "hey there", "good morning"), "Hello! What can I do for you?"),
    (("thanks", "thank you", "great, thank you", "thanks a lot"), "You are welcome."),
    (("who are you", "what are you", "what is your name"), "I am a small assistant on your phone."),
    (("what can you do", "how can you help me", "help"), "I can use the tools on this phone for you."),
    (("how are you", "how is it going", "are you well"), "I am well, thank you. How can I help?"),
    (("bye", "goodbye", "see you later", "good night"), "Goodbye!"),
    (("tell me a joke", "make me laugh", "say something funny"), "My battery told a joke. It was a bit flat."),
)

# Requests to repeat: the reply is the value itself.
REPEAT: tuple[str, ...] = ("repeat: {words}", "say {words}", "repeat after me: {words}", "please say: {words}")

PREFIXES: tuple[str, ...] = ("please", "can you", "could you", "hey,", "now", "ok,", "could you please", "just")
SUFFIXES: tuple[str, ...] = ("please", "for me", "now", "thanks")
JOINS: tuple[str, ...] = (" and ", " and then ", ", then ", ". Also ", ", and ")


def words(text: str) -> tuple[str, ...]:
    """Splits a blank-separated list into words."""
    return tuple(text.split())


FIRST_NAMES = words(
    "Anna Ben Carla David Elena Frank Grace Hugo Ines Jack Karen Leo Maria Nina Oscar Paula Quinn Rosa Sam Tina "
    "Uma Victor Wendy Yusuf Zoe Alice Bruno Clara Diego Emma Felix Gina Henry Ida Jonas Kim Lucas Mona Noah Olga "
    "Peter Rita Simon Tara Ursula Vera Walter Xenia Yara Zack Mom Dad Amir Bella Chloe Dora Erik Fiona Gustav Hana"
)
PLACES = words(
    "Paris London Berlin Rome Madrid Vienna Oslo Lisbon Dublin Prague Athens Cairo Tokyo Delhi Lima Quito Boston "
    "Denver Dallas Austin Miami Seattle Chicago Toronto Sydney Milan Porto Geneva Munich Hamburg Krakow Riga "
    "Tallinn Helsinki Zurich Basel Lyon Nice Naples Turin Seville Valencia Bergen Malmo Ghent Bruges Leeds Bristol"
)
APPS = words(
    "Maps Camera Mail Notes Clock Photos Chess Radio Music Files Fitness Banking Weather Podcasts Translate Books "
    "Calendar Contacts Settings Recorder Wallet News Games Health Scanner Shopping Travel Video Browser Calculator"
)
LANGUAGES = words(
    "French German Spanish Italian Dutch Polish Greek Turkish Arabic Hindi Korean Japanese Swedish Danish Czech "
    "Finnish Russian Thai"
)
DAYS = words("monday tuesday wednesday thursday friday saturday sunday today tomorrow")
NOUNS = words(
    "apple bag ball bank bed bike bird boat book bottle box bread bridge bus cake candle car cat chair cheese child "
    "church city coat coffee cow cup dance desk doctor dog door dress egg engine family farm field film fire fish "
    "flower forest game garden gate ghost gift glass gold grass guitar hat heart hill honey horse hotel house ice "
    "island jacket juice key kitchen knife lake lamp leaf lemon letter lion lunch market meal meat milk mirror moon "
    "morning mountain mouse nest night ocean office orange oven paint paper park party pear pen pepper piano picnic "
    "pig pizza plane plant plate pocket pond potato queen rain rice ring river road rock roof room rose salad salt "
    "school sea ship shirt shoe shop snow soap sock soup spoon star stone storm street sugar sun table tea tent "
    "ticket tiger tomato tooth tower town toy train tree truck umbrella valley village violin wall watch water "
    "wheel wind window winter wolf yard zoo"
)
VERBS = words(
    "answer bake book borrow bring brush build buy carry change check clean close collect cook count cut deliver "
    "draw dry empty feed fill find finish fix fold hide join keep lift load measure mix move order pack paint pick "
    "plan prepare pull push read rent repair return sell sew share sort study sweep teach test throw tidy touch "
    "wash water weigh wrap"
)
ADJECTIVES = words(
    "big blue brown cheap clean cold dark deep dry early empty fast fresh full green happy heavy high hot large late "
    "light little long loud low new nice old pink poor quick quiet red round sharp short slow small soft strong "
    "sweet tall thin warm white wide wild yellow young"
)
