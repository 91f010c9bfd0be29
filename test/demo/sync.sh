# Chapter 4 of the demo, sourced by it.
