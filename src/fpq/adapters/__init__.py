"""Vector stores of other frameworks on top of `fpq.Collection`; each module requires its framework.

`fpq.adapters.langchain` is a vector store of LangChain, `fpq.adapters.llamaindex` one of LlamaIndex, and
`fpq.adapters.haystack` a document store of Haystack with a retriever.
"""
