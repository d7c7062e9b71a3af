"""The shell of a gRPC service of ours, the same for every program that is one: who gets in, and what is told of calls.

Addresses, TLS, tokens, the gate and the drain, the call's log line, counts and spans, errors on their way out. A
program brings its methods, who may call each, and what its own log lines say more. It needs the extra `server` or
`trainer`: clients never import it.
"""
