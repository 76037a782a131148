"""What EmojiScenes shows: everyday things by kind, with the Unicode code points of their emoji.

The names are ours, after Unicode's CLDR labels, in words that a small language model knows.
"""

COLORS = {
    "heart": {
        "red": "2764-FE0F", "orange": "1F9E1", "yellow": "1F49B", "green": "1F49A", "blue": "1F499", "purple": "1F49C",
        "brown": "1F90E", "black": "1F5A4", "white": "1F90D",
    },
    "circle": {
        "red": "1F534", "orange": "1F7E0", "yellow": "1F7E1", "green": "1F7E2", "blue": "1F535", "purple": "1F7E3",
        "brown": "1F7E4", "black": "26AB", "white": "26AA",
    },
    "square": {
        "red": "1F7E5", "orange": "1F7E7", "yellow": "1F7E8", "green": "1F7E9", "blue": "1F7E6", "purple": "1F7EA",
        "brown": "1F7EB", "black": "2B1B", "white": "2B1C",
    },
    "book": {"red": "1F4D5", "green": "1F4D7", "blue": "1F4D8", "orange": "1F4D9"},
    "apple": {"red": "1F34E", "green": "1F34F"},
}  # fmt: skip

KINDS = {
    "animal": {
        "dog": "1F415", "cat": "1F408", "horse": "1F40E", "cow": "1F404", "pig": "1F416", "sheep": "1F411",
        "elephant": "1F418", "mouse": "1F401", "rabbit": "1F407", "bear": "1F43B", "panda": "1F43C", "fox": "1F98A",
        "lion": "1F981", "frog": "1F438", "snake": "1F40D", "turtle": "1F422", "crocodile": "1F40A",
        "monkey": "1F412", "camel": "1F42A", "giraffe": "1F992", "zebra": "1F993",
    },
    "bird": {
        "rooster": "1F413", "penguin": "1F427", "duck": "1F986", "owl": "1F989", "eagle": "1F985", "parrot": "1F99C",
        "flamingo": "1F9A9", "swan": "1F9A2", "peacock": "1F99A",
    },
    "sea animal": {
        "fish": "1F41F", "whale": "1F40B", "dolphin": "1F42C", "shark": "1F988", "octopus": "1F419", "crab": "1F980",
        "shrimp": "1F990", "lobster": "1F99E",
    },
    "insect": {
        "butterfly": "1F98B", "bee": "1F41D", "ant": "1F41C", "ladybug": "1F41E", "mosquito": "1F99F", "fly": "1FAB0",
    },
    "fruit": {
        "banana": "1F34C", "lemon": "1F34B", "pear": "1F350", "peach": "1F351", "cherries": "1F352",
        "strawberry": "1F353", "pineapple": "1F34D", "grapes": "1F347", "watermelon": "1F349", "coconut": "1F965",
    },
    "vegetable": {
        "carrot": "1F955", "corn": "1F33D", "potato": "1F954", "tomato": "1F345", "broccoli": "1F966",
        "mushroom": "1F344", "onion": "1F9C5", "cucumber": "1F952", "eggplant": "1F346",
    },
    "food": {
        "bread": "1F35E", "pizza": "1F355", "hamburger": "1F354", "hot dog": "1F32D", "egg": "1F95A", "cheese": "1F9C0",
        "cookie": "1F36A", "doughnut": "1F369", "cake": "1F370", "ice cream": "1F368", "popcorn": "1F37F",
        "croissant": "1F950", "sandwich": "1F96A", "taco": "1F32E", "lollipop": "1F36D",
    },
    "vehicle": {
        "car": "1F697", "bus": "1F68C", "taxi": "1F695", "ambulance": "1F691", "fire truck": "1F692",
        "tractor": "1F69C", "bicycle": "1F6B2", "scooter": "1F6F4", "truck": "1F69A", "helicopter": "1F681",
        "rocket": "1F680", "sailboat": "26F5", "ship": "1F6A2", "canoe": "1F6F6",
    },
    "building": {
        "house": "1F3E0", "castle": "1F3F0", "church": "26EA", "hospital": "1F3E5", "school": "1F3EB",
        "factory": "1F3ED", "tent": "26FA",
    },
    "plant": {
        "tree": "1F333", "palm tree": "1F334", "cactus": "1F335", "rose": "1F339", "sunflower": "1F33B",
        "tulip": "1F337", "maple leaf": "1F341",
    },
    "ball": {
        "soccer ball": "26BD", "basketball": "1F3C0", "baseball": "26BE", "tennis ball": "1F3BE", "football": "1F3C8",
    },
    "musical instrument": {
        "guitar": "1F3B8", "violin": "1F3BB", "trumpet": "1F3BA", "drum": "1F941", "saxophone": "1F3B7",
        "piano": "1F3B9", "accordion": "1FA97",
    },
    "piece of clothing": {
        "shirt": "1F455", "jeans": "1F456", "dress": "1F457", "socks": "1F9E6", "gloves": "1F9E4", "scarf": "1F9E3",
        "necktie": "1F454", "shorts": "1FA73", "coat": "1F9E5", "top hat": "1F3A9",
    },
    "tool": {
        "hammer": "1F528", "wrench": "1F527", "screwdriver": "1FA9B", "axe": "1FA93", "saw": "1FA9A", "ladder": "1FA9C",
        "broom": "1F9F9", "magnet": "1F9F2",
    },
    "piece of furniture": {"chair": "1FA91", "toilet": "1F6BD", "bathtub": "1F6C1", "door": "1F6AA", "mirror": "1FA9E"},
    "device": {
        "laptop": "1F4BB", "television": "1F4FA", "camera": "1F4F7", "radio": "1F4FB", "light bulb": "1F4A1",
        "phone": "1F4F1", "battery": "1F50B", "microscope": "1F52C",
    },
}  # fmt: skip

# never in training: one of each of a dozen kinds
UNSEEN = frozenset({
    "giraffe", "swan", "octopus", "ladybug", "pineapple", "broccoli", "taco", "tractor", "castle", "cactus", "violin",
    "gloves", "ladder", "camera",
})  # fmt: skip

WORDS = (
    "open", "closed", "stop", "sale", "hotel", "cafe", "bank", "taxi", "exit", "pizza", "books", "milk", "music",
    "welcome", "danger", "school", "park", "beach", "water", "coffee", "museum", "garden", "ticket", "market", "tea",
    "bakery", "bridge", "north", "south", "winter",
)  # fmt: skip
UNSEEN_WORDS = ("station", "flowers", "library", "summer", "fresh", "toys")
KNOWN = [name for things in KINDS.values() for name in things if name not in UNSEEN] + list(COLORS)  # in training
# so few that a tower which starts from nothing learns them in minutes: two of each of six kinds, and coloured shapes
FEW = [
    "dog", "cat", "banana", "strawberry", "pizza", "egg", "car", "bus", "tree", "sunflower", "basketball",
    "soccer ball", *COLORS,
]  # fmt: skip


def kind_of(name: str) -> str | None:
    """The kind of a thing; None for coloured shapes."""
    return next((kind for kind, things in KINDS.items() if name in things), None)


def code_points() -> dict[str, str]:
    """Name of every drawing -> its code points; coloured ones are called "red heart"."""
    things = {name: code for names in KINDS.values() for name, code in names.items()}
    colored = {f"{color} {shape}": code for shape, colors in COLORS.items() for color, code in colors.items()}
    return things | colored
