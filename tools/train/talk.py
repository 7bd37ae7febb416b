"""Small talk and everything else: greetings as people type them, and questions that the model is to decline.

What it declines is drawn from patterns, near misses of its tasks, loose words and bare letters, so that it learns to know its
tasks and not a list of others.
"""

import string

HELP = "How can I help you?"
HELLO = f"Hello! {HELP}"
KNOWS = "I can add, sort, spell backwards and name capitals."
UNKNOWN = "I only know sums, spelling, units and capitals."
MODEL = "I am a very small language model."

# What is said, and what is answered; drawn in other letters, with other ends.
TALK = {
    HELLO: [
        "hello", "hello there", "hi", "hi there", "hey", "hey there", "heya", "hiya", "howdy", "yo", "greetings", "hello again",
        "hi again", "hello world", "hello friend", "hi friend", "hello model", "hey you", "hi all", "hello everyone",
        "good day", "well hello", "oh hi", "hello hello", "hi hi", "hey hey", "helo", "hallo", "hullo", "hola", "bonjour", "salut",
        "ciao", "servus", "moin", "guten tag", "buenos dias", "namaste", "salaam", "konnichiwa", "hello how are you",
        "hi how are you", "hey how are you", "what's up", "whats up", "sup", "wassup", "how do you do", "nice to meet you",
        "pleased to meet you", "anyone there", "are you there", "hello, is anybody there", "test", "testing", "ping", "start",
        "hello, my name is {name}", "hi, I am {name}", "hi, i'm {name}", "hello {name}", "hi {name}", "hey {name}",
        "你好", "こんにちは", "привет", "grüß dich", "¡hola", "olá",
    ],
    f"Good morning! {HELP}": ["good morning", "morning", "good morning to you", "a very good morning"],
    f"Good afternoon! {HELP}": ["good afternoon", "afternoon"],
    f"Good evening! {HELP}": ["good evening", "evening", "good evening to you"],
    "Good night!": ["good night", "night night", "sleep well"],
    f"I am fine, thank you. {HELP}": [
        "how are you", "how are you doing", "how are you today", "how is it going", "how's it going", "hows it going", "how do you feel",
        "are you well", "are you ok", "how are things", "how have you been", "you ok",
    ],
    MODEL: [
        "who are you", "what are you", "who is this", "what is this", "what is your name", "what's your name", "your name",
        "tell me about yourself", "are you a robot", "are you human", "are you an ai", "are you real", "introduce yourself",
        "who am i talking to", "which model are you", "what model are you", "are you chatgpt", "are you a bot", "who made you",
    ],
    KNOWS: [
        "what can you do", "what do you know", "what do you do", "help", "help me", "can you help me", "can you help",
        "what can i ask", "what can i ask you", "what are you good at", "how can you help me", "i need help", "what else can you do",
        "what else", "how do you work", "what now", "please help", "what should i ask", "usage", "commands", "menu", "examples",
        "what are your skills", "tell me what you can do", "what tasks can you do", "show me what you can do", "options",
    ],
    "You are welcome!": [
        "thank you", "thanks", "thank you very much", "thanks a lot", "many thanks", "thx", "ty", "cheers", "thank you so much",
        "great, thanks", "ok thanks", "merci", "danke", "gracias", "thanks for your help", "thank you for your help", "perfect, thank you",
    ],
    "Goodbye!": ["goodbye", "bye", "bye bye", "see you", "see you later", "good bye", "farewell", "cya", "take care", "until tomorrow",
                 "i have to go", "exit", "quit", "talk to you later", "have a nice day", "later"],
    f"All right. {HELP}": ["ok", "okay", "yes", "no", "sure", "fine", "good", "great", "nice", "cool", "i see", "alright", "all right",
                           "right", "wow", "well done", "good job", "correct", "that is right", "sorry", "please", "hm", "lol", "haha"],
}
NAMES = "Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Maria Noah Olga Paul Rosa Sam Tom Vera Alice Bob Ravi Yuki".split()

THINGS = (
    "love life music history football physics chemistry biology god money war peace art science school work family sleep food water fire "
    "earth moon sun stars space time energy light sound gravity evolution democracy freedom power truth beauty death birth "
    "health medicine cancer sugar coffee tea wine beer bread cheese pizza pasta soup salad rice cake chocolate apples bananas "
    "dogs cats horses birds fish whales dinosaurs insects trees flowers forests mountains rivers oceans weather rain snow wind "
    "climate pollution cars trains planes ships bicycles roads bridges houses cities villages computers phones robots software "
    "programming python rust java javascript linux windows databases networks websites games chess poker movies books poems novels "
    "paintings photos dances songs guitars pianos drums concerts travel holidays hotels beaches airports passports taxes jobs "
    "banks stocks bitcoin prices markets laws judges police politics elections presidents kings queens soldiers heroes friends "
    "children parents teachers students doctors engineers artists writers scientists lawyers farmers cooks pilots nurses machines"
).split()
NOUNS = (
    "joke poem story song letter recipe list plan email essay summary report speech riddle quote picture video table function program "
    "script test page book film game car house garden dog cat bicycle computer phone shirt cake meeting holiday trip company team "
    "project question answer problem idea theory rule law number word sentence language map clock bridge engine battery camera"
).split()
ADJECTIVES = "blue big small old new fast slow hot cold good bad happy sad red green loud quiet expensive cheap famous important easy hard".split()
VERBS = (
    "make build fix write read cook bake draw paint buy sell find open close start stop learn teach play win lose clean wash cut grow "
    "plant drive ride fly swim run explain describe compare translate summarize improve change install delete update use design"
).split()
PLACES = (
    "Mongolia Brazil Mexico Turkey Russia Ukraine Belgium Switzerland Australia Argentina Colombia Nigeria Ghana Morocco Iran Iraq "
    "Israel Thailand Vietnam Korea Indonesia Pakistan Nepal Romania Bulgaria Serbia Croatia Slovenia Estonia Latvia Lithuania Malta "
    "Texas California Bavaria Scotland London Atlantis Mars Europe Africa Asia"
).split()
COMMON = (
    "the a of and to in is you that it he was for on are as with his they I at be this have from or one had by but not what all were we when "
    "your can said there use an each which she do how their if will up other about out many then them these so some her would make like him into "
    "has look two more write go see no way could people my than first been call who its now find long down day did get come made may part over "
    "say set three state never become between high really something most another much family own leave put while mean keep let begin "
    "seem country help talk where turn problem every start hand might show against place such again few case week company system "
    "program work government night point believe hold today bring happen next without before large million must home under water room"
).split()
PATTERNS = [
    "Tell me a {noun}.", "Tell me about {thing}.", "Tell me something about {thing}.", "Write a {noun} about {thing}.", "Write me a {noun}.",
    "Give me a {noun} about {thing}.", "Give me a {adjective} {noun}.", "What is {thing}?", "What is a {noun}?", "What are {thing}?",
    "What do you think about {thing}?", "Do you like {thing}?", "Why is {thing} {adjective}?", "Why are {thing} so {adjective}?",
    "Why is the {noun} {adjective}?", "How do I {verb} a {noun}?", "How do I {verb} {thing}?", "How can I {verb} my {noun}?",
    "How does {thing} work?", "How does a {noun} work?", "How much is a {noun}?", "How old is the {noun}?", "How far is {place}?",
    "How many {thing} are in {place}?", "How many people live in {place}?", "Where is {place}?", "Where can I {verb} a {noun}?",
    "When was {place} founded?", "When did {thing} begin?", "Who invented the {noun}?", "Who is {name}?", "Who is the president of {place}?",
    "Who wrote the {noun}?", "Which {noun} is the best?", "Is {thing} {adjective}?", "Are {thing} {adjective}?", "Can you {verb} a {noun}?",
    "Can you {verb} {thing}?", "Could you {verb} the {adjective} {noun} for me?", "Please {verb} the {noun}.", "Explain {thing}.",
    "Explain {thing} to a child.", "Describe {place}.", "Translate {word} to French.", "Translate \"{word}\" into German.",
    "Summarize the {noun}.", "I want to {verb} a {noun}.", "I like {thing}.", "I feel {adjective} today.", "My {noun} is {adjective}.",
    "The {noun} is {adjective}.", "What is the weather in {place}?", "What time is it?", "What day is it?", "What time is it in {place}?",
    "What is the meaning of {thing}?", "What is the best {noun} for {thing}?", "What is the difference between {thing} and {thing}?",
    "What is the capital of {place}?", "Name the capital of {place}.", "Capital of {place}?", "Which city is the capital of {place}?",
    "What is the {adjective} {noun} of {place}?", "What is the population of {place}?", "What language do people speak in {place}?",
    "Name a {noun}.", "Name three {thing}.", "Name the president of {place}.", "List {thing}.", "Sort my {noun}.", "Sort the {thing} by price.",
    "Spell check my {noun}.", "Reverse the {noun}.", "Write {noun} in French.", "Convert my {noun} to {noun}.", "Add a {noun} to my {noun}.",
    "Which is larger, {thing} or {thing}?", "How many {noun} are in {number} {thing}?", "What is {big} + {number}?", "What is {number} + {big}?",
    "{big} + {big} =", "{big} - {number} =", "What is {big} * {number}?", "What is {number} / {number}?", "What is {number} squared?",
    "What is the square root of {number}?", "What is the {number}th prime?", "{number}", "{big}", "{word}", "{word} {word}", "{noun}", "{thing}",
    "Who won the {noun} in {big}?", "def {word}({word}):", "print({word})", "SELECT {word} FROM {noun};", "import {word}", "https://{word}.com",
    "$ {word} --{word}", "Say {word}.", "Repeat after me: {word}.", "Say \"{word}\" {number} times.", "Finish this: the {noun} is",
    "Once upon a time there was a {adjective} {noun}.", "Do you know {name}?", "Where do you live?", "How old are you?", "Do you love me?",
    "What did you {verb} yesterday?", "What is your favourite {noun}?", "Let's {verb} a {noun}.", "Let us {verb}.", "{verb} a {noun}", "{adjective} {noun}",
]


def dressed(rng, text):
    """A phrase as someone types it: other letters, another end."""
    form = rng.random()
    if form < 0.45:
        text = text[:1].upper() + text[1:]
    elif form < 0.52:
        text = text.upper()
    return text + rng.choice(["", "", "", "!", ".", "?", "!!", " !", "?!", " :)", "..."])


def phrase(rng, text):
    """A phrase with a name in its gap: a known one, or letters, in capitals or not."""
    name = rng.choice(NAMES) if rng.random() < 0.6 else letters(rng).capitalize()
    return text.replace("{name}", name if rng.random() < 0.7 else name.lower())


def talk(rng):
    """A greeting, a question about the model, thanks: (what is said, what is answered)."""
    answer = rng.choice([HELLO, HELLO, HELLO, *TALK])
    text = phrase(rng, rng.choice(TALK[answer]))
    if rng.random() < 0.15:
        text += rng.choice([" ", ", ", "! "]) + phrase(rng, rng.choice(TALK[answer]))
    return dressed(rng, text), answer


def letters(rng, least=2, most=9):
    return "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(least, most)))


def filled(rng, pattern):
    """A pattern with words in its gaps."""
    choices = {
        "thing": THINGS, "noun": NOUNS, "adjective": ADJECTIVES, "verb": VERBS, "name": NAMES,
    }
    out = []
    for text, gap, _, _ in string.Formatter().parse(pattern):
        out.append(text)
        if gap == "place":
            out.append(rng.choice(PLACES) if rng.random() < 0.6 else letters(rng).capitalize())
        elif gap == "word":
            out.append(rng.choice([letters(rng), rng.choice(COMMON), rng.choice(NOUNS)]))
        elif gap == "number":
            out.append(str(rng.randint(0, 99)))
        elif gap == "big":
            out.append(str(rng.randint(100, 99999)))
        elif gap:
            out.append(rng.choice(choices[gap]))
    return "".join(out)


def loose(rng):
    """Words in no order, or no words."""
    if rng.random() < 0.25:
        return " ".join(letters(rng, 1, 12) for _ in range(rng.randint(1, 4)))
    words = [rng.choice([rng.choice(COMMON), rng.choice(COMMON), rng.choice(THINGS), rng.choice(NOUNS), letters(rng)])
             for _ in range(rng.randint(2, 12))]
    return " ".join(words)


def other(rng):
    """A question that the model can't answer, and what it says to it."""
    if rng.random() < 0.75:
        text = filled(rng, rng.choice(PATTERNS))
        if rng.random() < 0.3:
            text = text.lower()
        if rng.random() < 0.3:
            text = text.rstrip(".?!")
        if rng.random() < 0.1:
            text += rng.choice(["", " Please.", " please", " Thanks!", " Why?"])
    else:
        text = dressed(rng, loose(rng))
    return text[:110], UNKNOWN
