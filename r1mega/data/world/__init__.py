"""A small world to run the whole recipe in: word problems, requests, and requests to decline.

Everything is in English and in Chinese, and everything is a function of seeds. The vocabulary of
all of it together stays below 512, so that models of under a million parameters can speak it.
"""
