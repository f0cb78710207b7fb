"""Where questions come from and how they become text: tasks, prompt files, templates, tokenizer.

The room stands on the ground: plain values in, plain values out, and no other room imported.
Whatever is drawn at random is a function of a seed, so that a resumed run sees what the
undisturbed one saw.
"""
