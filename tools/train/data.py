"""Generated questions with verifiable answers; nothing is downloaded.

Every question is a pure function of a random generator. Questions are *held out* by a hash of their text:
training never sees them, evaluation sees only them.
"""

import hashlib
import random

from . import talk

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


def word(rng):
    """A known word, or random letters: spelling must generalise to unseen words."""
    if rng.random() < 0.4:
        return rng.choice(WORDS)
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 7)))


def two(rng):
    """Two numbers below 100; those that people try first more often."""
    most = 12 if rng.random() < 0.25 else 99
    return rng.randint(0, most), rng.randint(0, most)


def add(rng):
    a, b = two(rng)
    form = rng.choice(["What is {} + {}?", "Add {} and {}.", "{} + {} ="])
    return form.format(a, b), str(a + b)


def subtract(rng):
    a, b = sorted(two(rng), reverse=True)
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


def relaxed(rng, question):
    """A question as someone types it in a hurry: small letters, no end, no spaces around signs."""
    if rng.random() < 0.5:
        question = question[:1].lower() + question[1:]
        question = next((question.replace(c, c.lower()) for c in COUNTRIES if c in question), question)
    if rng.random() < 0.5:
        question = question.rstrip(" ?.=")
    if rng.random() < 0.5:
        for sign in "+-*":
            question = question.replace(f" {sign} ", sign)
    return question


TASKS = {
    "add": (add, 7), "subtract": (subtract, 9), "multiply": (multiply, 3), "compare": (larger, 2), "sort": (sort, 2),
    "backwards": (backwards, 3), "ends": (ends, 1), "upper": (upper, 1), "capital": (capital, 1.5),
    "units": (units, 1.5), "talk": (talk.talk, 3), "other": (talk.other, 5),
}
# Those that are also asked in relaxed form.
RELAXED = ("add", "subtract", "multiply", "compare", "sort", "capital", "units")


def held_out(question):
    """True for one question in sixteen, by hash: those excluded from training."""
    return hashlib.sha256(question.encode()).digest()[0] % 16 == 0


def sample(rng, want_held_out=False):
    """A training (or held-out) question: (task, question, answer). Small talk is all trained, and none of it is held out."""
    names = [n for n in TASKS if n != "talk" or not want_held_out]
    while True:
        task = rng.choices(names, [TASKS[n][1] for n in names])[0]
        question, answer = TASKS[task][0](rng)
        # The plain form decides: a held-out sum is not trained in another form either.
        if task != "talk" and held_out(question) != want_held_out:
            continue
        if task in RELAXED and rng.random() < 0.25:
            question = relaxed(rng, question)
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
