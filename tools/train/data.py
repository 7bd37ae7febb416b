"""Generated questions with verifiable answers; nothing is downloaded.

Every question is a pure function of a random generator. Questions are *held out* by a hash of their text:
training never sees them, evaluation sees only them.
"""

import hashlib
import random

COUNTRIES = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "Greece": "Athens", "Austria": "Vienna", "Poland": "Warsaw", "Norway": "Oslo", "Sweden": "Stockholm",
    "Finland": "Helsinki", "Denmark": "Copenhagen", "Ireland": "Dublin", "Hungary": "Budapest",
    "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi", "Egypt": "Cairo", "Kenya": "Nairobi",
    "Peru": "Lima", "Chile": "Santiago", "Cuba": "Havana", "Canada": "Ottawa", "Iceland": "Reykjavik",
}
UNITS = [
    ("hours", "minutes", 60, 12), ("minutes", "seconds", 60, 12), ("weeks", "days", 7, 12),
    ("days", "hours", 24, 9), ("meters", "centimeters", 100, 50), ("kilograms", "grams", 1000, 50),
    ("years", "months", 12, 12),
]
WORDS = (
    "apple banana cherry table chair window garden river stone music paper pencil orange yellow purple silver "
    "tiger horse mouse eagle whale bread butter cheese pepper sugar summer winter spring autumn morning night "
    "cloud storm ocean forest desert island bridge tower castle mirror candle basket bottle button carpet cat "
    "dog bird fish tree leaf lamp door wall road ship plane train happy quiet brave clever gentle honest kind"
).split()
GREETINGS = {
    "Hello!": "Hello! How can I help you?",
    "Hi there!": "Hello! How can I help you?",
    "Good morning!": "Good morning! How can I help you?",
    "Good evening!": "Good evening! How can I help you?",
    "Who are you?": "I am a very small language model.",
    "What are you?": "I am a very small language model.",
    "What can you do?": "I can add, sort, spell backwards and name capitals.",
    "Thank you!": "You are welcome!",
    "Thanks!": "You are welcome!",
    "Goodbye!": "Goodbye!",
}


def word(rng):
    """A known word, or random letters: spelling must generalise to unseen words."""
    if rng.random() < 0.4:
        return rng.choice(WORDS)
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 7)))


def add(rng):
    a, b = rng.randint(0, 99), rng.randint(0, 99)
    form = rng.choice(["What is {} + {}?", "Add {} and {}.", "{} + {} ="])
    return form.format(a, b), str(a + b)


def subtract(rng):
    a, b = sorted((rng.randint(0, 99), rng.randint(0, 99)), reverse=True)
    form = rng.choice(["What is {} - {}?", "{} - {} ="])
    return form.format(a, b), str(a - b)


def multiply(rng):
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    form = rng.choice(["What is {} * {}?", "Multiply {} by {}.", "{} * {} ="])
    return form.format(a, b), str(a * b)


def larger(rng):
    a, b = rng.sample(range(100), 2)
    if rng.random() < 0.5:
        return f"Which is larger, {a} or {b}?", str(max(a, b))
    return f"Which is smaller, {a} or {b}?", str(min(a, b))


def sort(rng):
    digits = [rng.randint(0, 9) for _ in range(rng.randint(3, 6))]
    form = rng.choice(["Sort {}.", "Sort these numbers: {}."])
    return form.format(", ".join(map(str, digits))), ", ".join(map(str, sorted(digits)))


def backwards(rng):
    w = word(rng)
    form = rng.choice(['Spell "{}" backwards.', 'Reverse "{}".'])
    return form.format(w), w[::-1]


def ends(rng):
    w = word(rng)
    if rng.random() < 0.5:
        return f'What is the first letter of "{w}"?', w[0]
    return f'What is the last letter of "{w}"?', w[-1]


def upper(rng):
    w = word(rng)
    return f'Write "{w}" in capital letters.', w.upper()


def capital(rng):
    country, city = rng.choice(list(COUNTRIES.items()))
    form = rng.choice([
        "What is the capital of {}?", "Name the capital of {}.", "Capital of {}?", "Which city is the capital of {}?",
        "Tell me the capital of {}.",
    ])
    return form.format(country), city


def units(rng):
    big, small, factor, most = rng.choice(UNITS)
    n = rng.randint(2, most)
    form = rng.choice(["How many {1} are in {2} {0}?", "Convert {2} {0} to {1}.", "{2} {0} in {1}?"])
    return form.format(big, small, n), f"{n * factor} {small}"


def talk(rng):
    return rng.choice(list(GREETINGS.items()))


TASKS = {
    "add": (add, 4), "subtract": (subtract, 5), "multiply": (multiply, 3), "compare": (larger, 2), "sort": (sort, 2),
    "backwards": (backwards, 3), "ends": (ends, 1), "upper": (upper, 1), "capital": (capital, 1.5),
    "units": (units, 1.5), "talk": (talk, 0.5),
}


def held_out(question):
    """True for one question in sixteen, by hash: those excluded from training. All greetings are trained."""
    if question in GREETINGS:
        return False
    return hashlib.sha256(question.encode()).digest()[0] % 16 == 0


def sample(rng, want_held_out=False):
    """A training (or held-out) question: (task, question, answer)."""
    names = list(TASKS)
    while True:
        task = rng.choices(names, [TASKS[n][1] for n in names])[0]
        question, answer = TASKS[task][0](rng)
        if held_out(question) == want_held_out:
            return task, question, answer


def evaluation(count=500, seed=20):
    """Held-out questions for measuring accuracy, without repeats."""
    rng, seen, rows = random.Random(seed), set(), []
    while len(rows) < count:
        task, question, answer = sample(rng, want_held_out=True)
        if question not in seen:
            seen.add(question)
            rows.append({"id": len(rows), "task": task, "question": question, "answer": answer})
    return rows
