"""Sentences for a toy assistant with their intents, generated from patterns; nothing is downloaded.

Sentences are *held out* by a hash of their text: training never sees them, evaluation sees only them.
"""

import hashlib
import random

CITIES = (
    "Paris Berlin Rome Madrid Lisbon Athens Vienna Warsaw Oslo Stockholm Helsinki Copenhagen Dublin Budapest Tokyo "
    "Cairo Nairobi Lima Santiago Ottawa"
).split()
WHEN = "today", "tomorrow", "tonight", "this weekend", "on Monday", "on Friday", "next week", "right now"
SKY = "rain", "snow", "be sunny", "be windy", "be cold", "be warm", "freeze"
STYLE = "jazz", "rock", "classical music", "folk songs", "piano music", "some blues", "quiet music", "old hits"
MOOD = "for dinner", "for a walk", "for the kids", "while I work", "in the kitchen", "to fall asleep", "for a party"
UNIT = "seconds", "minutes", "hours"
THING = "the pasta", "the eggs", "the tea", "the laundry", "my break", "the bread", "the oven", "a nap"
ROOM = "kitchen", "bedroom", "hall", "office", "garage", "bathroom", "living room", "garden"
FOOD = "pancakes", "lentil soup", "apple pie", "fried rice", "bread", "tomato sauce", "an omelette", "noodles"
GUEST = "for two", "for four people", "without eggs", "with mushrooms", "in half an hour", "for lunch", "with cheese"
NAME = "Ada", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Leo"
PART = "morning", "afternoon", "evening"
DAY = "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"
MESSAGE = "I am late", "dinner is ready", "call me back", "the train is full", "see you soon", "bring some milk"

NUMBER = [str(n) for n in range(2, 60)]

# Intent → patterns of fixed words and slots.
INTENTS = {
    "weather": [
        "What is the weather in {city} {when}?", "Will it {sky} in {city} {when}?",
        "Do I need an umbrella in {city} {when}?", "How warm is it in {city} {when}?",
        "Give me the forecast for {city} {when}.", "Is it going to {sky} {when} in {city}?",
    ],
    "music": [
        "Play {style} {mood}.", "Put on {style} {mood}, please.", "I want to hear {style} {mood}.",
        "Start a list of {style} {mood}.", "Can you play {style} in the {room}?", "Skip this song and play {style}.",
    ],
    "timer": [
        "Set a timer for {n} {unit}.", "Wake me in {n} {unit}.", "Start a countdown of {n} {unit} for {thing}.",
        "Remind me about {thing} in {n} {unit}.", "How long until the timer for {thing} ends?",
        "Cancel the timer for {thing} after {n} {unit}.",
    ],
    "lights": [
        "Turn on the lights in the {room} {when}.", "Switch off the lamp in the {room}, {name}.",
        "Dim the {room} lights to {n} percent.", "Make the {room} brighter by {n} percent.",
        "It is too dark in the {room} {when}.", "Turn the {room} lamp off in {n} {unit}.",
    ],
    "recipe": [
        "How do I cook {food} {guest}?", "Find a recipe of {food} {guest}.", "What do I need to make {food} {guest}?",
        "Can I make {food} {guest}?", "Show me how to prepare {food} {guest}.", "How long does {food} {guest} bake?",
    ],
    "message": [
        "Tell {name} that {message}.", "Send a message to {name} saying {message}.", "Text {name}: {message}.",
        "Write to {name} and say {message}.", "Let {name} know {when} that {message}.",
        "Reply to {name} with {message}.",
    ],
    "calendar": [
        "What is on my calendar {when}?", "Add a meeting with {name} on {day} at {hour}.",
        "Move my call with {name} to {day} at {hour}.", "Am I free on {day} at {hour}?",
        "Book a lunch with {name} on {day}.", "Cancel the appointment with {name} on {day} at {hour}.",
    ],
    "greeting": [
        "Good {part}, {name}!", "Hello {name}, how are you {when}?", "Hi there, {name}!",
        "Nice to see you {when}, {name}.", "Hey {name}, how is your {part}?", "Good {part}, how was your {day}?",
    ],
}
SLOTS = {
    "city": CITIES, "when": WHEN, "sky": SKY, "style": STYLE, "mood": MOOD, "n": NUMBER, "unit": UNIT, "thing": THING,
    "room": ROOM, "food": FOOD, "guest": GUEST, "name": NAME, "part": PART, "day": DAY, "message": MESSAGE,
    "hour": [str(h) for h in range(7, 22)],
}
LABELS = list(INTENTS)
OPENINGS = ["", "", "", "Please: ", "Okay, ", "So, ", "Excuse me, ", "Assistant, "]


def sentence(rng):
    """One sentence and its intent."""
    intent = rng.choice(LABELS)
    pattern = rng.choice(INTENTS[intent])
    filled = pattern.format(**{slot: rng.choice(values) for slot, values in SLOTS.items()})
    return rng.choice(OPENINGS) + filled, intent


def held_out(text):
    """True for one sentence in eight, by hash: those excluded from training."""
    return hashlib.sha256(text.encode()).digest()[0] % 8 == 0


def sample(rng, want_held_out=False):
    """A training (or held-out) sentence and its intent."""
    while True:
        text, intent = sentence(rng)
        if held_out(text) == want_held_out:
            return text, intent


def evaluation(count=400, seed=21):
    """Held-out sentences without repeats."""
    rng, seen = random.Random(seed), {}
    while len(seen) < count:
        text, intent = sample(rng, want_held_out=True)
        seen.setdefault(text, intent)
    return [{"text": text, "intent": intent} for text, intent in seen.items()]
