"""The protein map: neighbor graph, hierarchy of systems, their names, and where proteins stand in the overview."""
