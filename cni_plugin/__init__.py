"""Enrolment: the exec'd CNI plugin and the node agent."""
