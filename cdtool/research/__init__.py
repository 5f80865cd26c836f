"""The paper reproduced: suites, studies and analyses. Only the command line imports it."""
