Feature: Access
  With tokens, who brings none gets nothing, and a token opens what its role says.

  Background:
    Given an engine with 1 slot
    And tokens of the roles "tasks" and "control"
    And the orchestrator runs

  Scenario Outline: Without a good token there is nothing
    Given a client with <token>
    When task "alpha" is sent
    Then the answer is 401
    And it asks for a token
    And engine 0 never saw "alpha"

    Examples:
      | token         |
      | no token      |
      | a wrong token |

  Scenario: Missing and wrong tokens get the same answer
    When "/v1/tasks/alpha" is asked for with no token
    And "/v1/tasks/alpha" is asked for with a wrong token
    Then both answers are the same

  Scenario: A client's token opens tasks
    Given a client with the token of "tasks"
    When task "alpha" is sent
    And task "alpha" is read
    Then task "alpha" gets all of its 5 tokens

  Scenario: Whether the process lives is no secret
    Given a client with no token
    When "/healthz" is asked for
    Then the answer is 200
