"""Prompts of three kinds, in turns: prose, code, a question."""

from treedraft.core.generation import ChatMessage

_PROSE = (
    "Write a short story about a lighthouse keeper who finds a letter in a bottle.",
    "Describe a walk through an old town on a rainy evening in autumn.",
    "Tell me about the history of bread, from the first grains to the modern bakery.",
    "Write a letter from a grandmother to her grandson in another country.",
    "Write a speech for the opening of a small public library.",
    "Describe the life of a bee over one year, as if the bee told it.",
    "Write a fairy tale about a fox who learns to share.",
    "Describe the sea before, during and after a storm.",
    "Write the diary of a traveller who crosses a desert.",
    "Tell the story of a clock that runs backwards.",
    "Describe a market in the morning with all its sounds and smells.",
)
_CODE = (
    "Write a Python class for a bank account with deposit and withdraw methods.",
    "Write a Python function that merges two sorted lists, with a docstring.",
    "Show a SQL query that finds the ten customers with the most orders.",
    "Write a JavaScript function that debounces another function.",
    "Write a bash script that renames all .jpeg files in a folder to .jpg.",
    "Write a C function that reverses a string in place.",
    "Implement binary search in Python and explain each line.",
    "Write an HTML page with a form for a name and an e-mail address.",
    "Write a Python function that counts the words of a text file.",
    "Write a Java class for a point with x and y and a method distance.",
    "Write a Python decorator that measures how long a function takes.",
)
_QUESTIONS = (
    "Why do leaves change colour in autumn?",
    "What is the difference between weather and climate?",
    "How does a refrigerator keep food cold?",
    "What are the main causes of the First World War?",
    "How do vaccines work?",
    "What is the greenhouse effect, and why does it matter?",
    "How can I learn a new language in six months? Give me ten steps.",
    "What should I consider before adopting a dog? Make a list.",
    "How does a bill become a law?",
    "Why is the sea salty?",
    "What is the difference between a virus and a bacterium?",
)
PROMPTS = tuple(text for kinds in zip(_PROSE, _CODE, _QUESTIONS, strict=True) for text in kinds)


def conversations(number: int, *, salt: str = "") -> list[tuple[ChatMessage, ...]]:
    """Return that many conversations.

    Args:
        number: how many; beyond the number of prompts they repeat.
        salt: put at the very beginning, so that no pages of an earlier run
            with another salt are shared and every run pays for its prompts.
    """
    return [
        (
            ChatMessage("system", f"{salt}{index} You are a helpful assistant."),
            ChatMessage("user", PROMPTS[index % len(PROMPTS)]),
        )
        for index in range(number)
    ]
