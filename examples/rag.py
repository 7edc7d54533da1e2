#!/usr/bin/env python3
"""Documents in changing order, with and without blending: what is computed, how long it takes, what is answered.

    rag.py [--base-url http://127.0.0.1:8080/v1] [--api-key KEY] [--rounds 3] [--method blend:ratio=0.15]

Each question comes behind the same documents in another order, as a retriever would hand them over. An exact cache can reuse
their beginning only; with blending every document is stored once, wherever it stands, and a share of its tokens is computed
again. Blended answers are approximate, and say so.
"""
import argparse
import os
import random
import time

import openai

DOCUMENTS = {
    "The lighthouse": "The lighthouse of Varn stands on a rock two miles off the coast. It was built in 1871 by the engineer Elin "
    "Hagstrom, who lived in it for the first three winters to see how the mortar held. The lamp burned rape oil until 1904 and "
    "then paraffin; today it is electric, and turns once in twelve seconds. The keeper's house is a museum that is open from May "
    "to September. Boats leave the harbour of Varn every morning at nine when the sea is calm, and the crossing takes forty minutes.",
    "The bakery": "The bakery in Mill Street opens at five in the morning. Its rye bread is made with a sourdough that the baker, Tomas "
    "Reuter, brought from his grandmother's farm in a stone jar. He bakes eighty loaves a day and never more, because the oven is "
    "small and because he wants to be done by noon. On Saturdays there is a plum cake that is sold out before eight. The shop "
    "window still carries the name of the family who had it before the war, and nobody has ever asked him to change it.",
    "The railway": "The narrow railway from Ostheim to the quarry was closed in 1962 and opened again by volunteers in 1988. It has two "
    "steam engines, called Anna and Berta, and a diesel that does the work when nobody is looking. The line is eleven kilometres "
    "long and climbs two hundred metres; the steepest part is behind the bridge at Kell. Tickets are sold in the old signal box. A "
    "ride up takes fifty minutes and a ride down thirty-five, and dogs travel free of charge if they do not mind the whistle.",
    "The library": "The town library keeps its rarest book in a drawer that has no label. It is a herbal of 1543 with two hundred woodcuts, "
    "coloured by hand, and was given by a chemist who did not want his sons to quarrel about it. The reading room is open every "
    "day but Monday. Whoever wants to see the herbal asks the librarian, Miss Okafor, who fetches it with white gloves and turns "
    "the pages herself. In winter the room is heated by a tiled stove, and the seats beside it are taken first.",
}
QUESTIONS = ["Who built the lighthouse of Varn?", "What are the steam engines called?", "When does the bakery open?", "Who turns the pages of the herbal?"]


def ask(client, model, documents, question, reuse):
    """The answer, the time to its first token, and what the cache did."""
    content = [{"type": "text", "text": f"{title}\n{DOCUMENTS[title]}\n", "larder": {"chunk": True}} for title in documents]
    content.append({"type": "text", "text": question})
    began, first, words, told = time.monotonic(), None, [], {}
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}], max_tokens=24, temperature=0, stream=True,
        extra_body={"larder": {"reuse": reuse, "explain": True}})
    for chunk in stream:
        told = (chunk.model_extra or {}).get("larder") or told
        for choice in chunk.choices:
            if choice.delta.content:
                first = first or time.monotonic() - began
                words.append(choice.delta.content)
    return " ".join("".join(words).split()), 1e3 * (first or time.monotonic() - began), told


def computed(told):
    """Prompt tokens that went through all layers for this request."""
    return told["cache"]["recomputed"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default=os.environ.get("LARDER_URL", "http://127.0.0.1:8080") + "/v1")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--method", default="blend:ratio=0.15")
    arguments = parser.parse_args()
    client = openai.OpenAI(base_url=arguments.base_url, api_key=arguments.api_key, timeout=600)
    model = client.models.list().data[0].id
    shuffle = random.Random(1)
    titles = list(DOCUMENTS)
    # The first blended request stores the documents; it is not counted.
    ask(client, model, titles, "Ready?", arguments.method)
    totals = {"prefix": [0, 0.0], arguments.method: [0, 0.0]}
    for round_number in range(arguments.rounds):
        shuffle.shuffle(titles)
        question = QUESTIONS[round_number % len(QUESTIONS)]
        print(f"\n{', '.join(titles)}\n{question}")
        for reuse in totals:
            answer, first_ms, told = ask(client, model, titles, question, reuse)
            totals[reuse][0] += computed(told)
            totals[reuse][1] += first_ms
            label = "approximate" if told.get("approximate") else "exact"
            print(f"  {reuse:<18} {computed(told):>5} tokens computed, first token after {first_ms:6.0f} ms, {label}: {answer}")
    print()
    for reuse, (tokens, milliseconds) in totals.items():
        print(f"{reuse:<18} {tokens:>6} tokens computed, first tokens after {milliseconds / arguments.rounds:.0f} ms on average")


if __name__ == "__main__":
    main()
