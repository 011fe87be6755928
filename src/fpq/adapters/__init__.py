"""Vector stores of other frameworks on top of `fpq.Collection`; each module requires its framework.

`fpq.adapters.langchain` is a vector store of LangChain.
"""
