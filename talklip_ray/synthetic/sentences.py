"""What synthetic people say: sentences for training, and others, in other voices, that training never hears."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from talklip_ray.synthetic.speech import Utterance

TRAINING: dict[str, tuple[str, ...]] = {
    "en": (
        "The baker opened his shop before the sun came up.",
        "Please move both of those boxes away from the window.",
        "A warm breeze blew across the empty market place.",
        "My brother plays the violin every Monday evening.",
        "We walked home along the river and talked about football.",
        "Why would anybody paint a garden wall bright purple?",
        "The old map showed a path through the forest.",
        "She bought five apples, a lemon and some brown bread.",
        "Nobody remembers who built the tower on the hill.",
        "Perhaps the weather will improve by Thursday afternoon.",
        "Keep your hands off the machine while it is moving.",
        "The children laughed when the puppy jumped in the pool.",
        "Every morning I make a pot of very strong coffee.",
        "There was a tiny mouse asleep beneath the piano.",
        "He promised to phone us from Boston at half past four.",
        "Good music always sounds better in a small room.",
    ),
    "fr": (
        "Le boulanger ouvre sa boutique avant le lever du soleil.",
        "Ma voisine a planté des tomates derrière la maison.",
        "Nous avons pris le train de nuit pour aller à Marseille.",
        "Il faut fermer la porte quand il pleut beaucoup.",
        "Les enfants jouent au ballon sur la place du village.",
        "Pourquoi as-tu peint ce mur en bleu foncé ?",
        "Elle apporte toujours un bouquet de fleurs blanches.",
        "Personne ne sait où mène ce vieux chemin.",
        "Un petit chat noir dort sous le banc du jardin.",
        "Je voudrais deux pommes vertes et un morceau de fromage.",
        "Mon père répare la montre de mon grand-père.",
        "Au printemps, la rivière monte jusqu'au pont.",
    ),
    "de": (
        "Der Bäcker öffnet seinen Laden vor Sonnenaufgang.",
        "Am Montag fahren wir mit dem Boot über den See.",
        "Warum hat niemand die alte Brücke repariert?",
        "Meine Schwester malt am liebsten große bunte Vögel.",
        "Bitte mach das Fenster zu, bevor es regnet.",
        "Im Garten blühen rote Rosen und weiße Tulpen.",
        "Wir haben gestern Abend lange über Musik gesprochen.",
        "Der kleine Hund bellt, wenn der Postbote kommt.",
        "Vielleicht wird das Wetter morgen wieder besser.",
        "Auf dem Markt kaufe ich Äpfel, Brot und Butter.",
        "Er wohnt in einem hohen Haus neben dem Bahnhof.",
        "Das Mädchen lachte, als der Ball ins Wasser fiel.",
    ),
    "es": (
        "El panadero abre su tienda antes de que salga el sol.",
        "Mi hermana toca el piano todos los domingos.",
        "Mañana vamos a caminar hasta la playa del pueblo.",
        "¿Por qué pintaron la pared de color amarillo?",
        "Compré manzanas, pan blanco y un poco de queso.",
        "Nadie sabe quién construyó aquel puente de piedra.",
        "Los niños juegan con la pelota en la plaza mayor.",
        "Por favor, mueve esas cajas lejos de la ventana.",
        "El perro pequeño ladra cuando llega el cartero.",
        "A mi abuelo le gusta beber café muy fuerte.",
        "Una brisa tibia cruza el mercado vacío.",
        "Hablamos de música hasta la medianoche.",
    ),
    "it": (
        "Il fornaio apre la bottega prima dell'alba.",
        "Mia sorella suona il pianoforte ogni domenica.",
        "Perché hanno dipinto il muro di giallo?",
        "Abbiamo camminato lungo il fiume fino al ponte.",
        "Nessuno ricorda chi abita in quella grande casa.",
        "Vorrei due mele verdi e un pezzo di pane.",
        "Il cane piccolo abbaia quando arriva il postino.",
        "Domani forse il tempo sarà migliore.",
    ),
}

HELD_OUT: dict[str, tuple[str, ...]] = {
    "en": (
        "Our pilot waved as the small plane rolled past the barn.",
        "How many spoons of sugar do you want in your tea?",
        "The museum keeps a famous painting of a blue horse.",
        "I almost forgot to buy a birthday present for Emma.",
    ),
    "fr": (
        "Le capitaine observe la mer avec une longue-vue.",
        "Demain matin, nous mangerons des crêpes au miel.",
        "Cette vieille voiture ne démarre jamais en hiver.",
        "Le professeur a oublié son parapluie dans le bus.",
    ),
    "de": (
        "Der Kapitän beobachtet das Meer durch ein Fernrohr.",
        "Zum Geburtstag wünscht sie sich ein blaues Fahrrad.",
        "Im Winter springt mein altes Auto selten an.",
        "Die Lehrerin hat ihren Mantel im Bus vergessen.",
    ),
    "es": (
        "El capitán observa el mar desde la torre blanca.",
        "Para desayunar tomamos pan con miel y mantequilla.",
        "En invierno mi viejo coche casi nunca arranca.",
        "La maestra olvidó su paraguas en el autobús.",
    ),
}

TRAINING_VOICES: dict[str, tuple[str, ...]] = {
    "en": ("en-us", "en-gb-x-rp", "en-us+m1", "en-us+m4", "en-gb-x-rp+m7", "en-us+f1", "en-gb-x-rp+f4", "en-us+f2"),
    "fr": ("fr", "fr+m1", "fr+m4", "fr+f1", "fr+f4"),
    "de": ("de", "de+m1", "de+m4", "de+f1", "de+f2"),
    "es": ("es", "es-419", "es+m4", "es+f1", "es+f4"),
    "it": ("it", "it+m1", "it+f2"),
}
HELD_OUT_VOICES: dict[str, tuple[str, ...]] = {
    "en": ("en-us+m3", "en-gb-x-rp+f3", "en-us+m6"),
    "fr": ("fr+m3", "fr+f3", "fr+m6"),
    "de": ("de+m3", "de+f3", "de+m6"),
    "es": ("es+m3", "es+f3", "es+m6"),
}


def training_utterances(count: int, seed: int) -> list[Utterance]:
    """Sentences for training in changing voices, speeds and pitches; the same for the same seed."""
    chance = np.random.default_rng(seed)
    pairs = [(language, text) for language, texts in TRAINING.items() for text in texts]
    order = np.concatenate([chance.permutation(len(pairs)) for _ in range(-(-count // len(pairs)))])[:count]
    return [
        Utterance(
            text=pairs[at][1],
            voice=_pick(TRAINING_VOICES[pairs[at][0]], chance),
            words_per_minute=int(chance.integers(125, 200)),
            pitch=int(chance.integers(25, 80)),
        )
        for at in order
    ]


def held_out_utterances() -> list[Utterance]:
    """Every held-out sentence in one of its language's held-out voices, the voices taking turns."""
    return [
        Utterance(text=text, voice=HELD_OUT_VOICES[language][at % len(HELD_OUT_VOICES[language])])
        for language, texts in HELD_OUT.items()
        for at, text in enumerate(texts)
    ]


def _pick(voices: Sequence[str], chance: np.random.Generator) -> str:
    return voices[int(chance.integers(len(voices)))]
