package server

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"
)

// The official OpenAI clients, each in its own folder of contract, against the server. A client that is
// not installed is skipped, and says so.

func runClient(t *testing.T, dir string, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

func contractServer(t *testing.T) string {
	f := newFake(t)
	f.cfg.MaxContext = 8192
	f.replies = map[string]string{"hello": "Hello there!"}
	_, h := serve(t, f, Options{})
	return h.URL
}

func TestContractPython(t *testing.T) {
	python := os.Getenv("TRIT_TEST_PYTHON")
	if python == "" {
		python = "python3"
	}
	if exec.Command(python, "-c", "import openai").Run() != nil {
		t.Skip("no Python with the openai package (TRIT_TEST_PYTHON names one): its client is not tested")
	}
	runClient(t, "contract/python", python, "contract.py", contractServer(t), "chat")
}

func TestContractNode(t *testing.T) {
	if _, err := os.Stat("contract/node/node_modules/openai"); err != nil {
		t.Skip("OpenAI's Node client is not tested: run npm ci in server/contract/node first")
	}
	runClient(t, "contract/node", "node", "contract.mjs", contractServer(t))
}

func TestContractGo(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: OpenAI's Go client is not tested")
	}
	cmd := exec.Command("go", "build", "./...")
	cmd.Dir = "contract/go"
	if cmd.Run() != nil {
		t.Skip("OpenAI's Go client is not tested: its module cannot be had")
	}
	runClient(t, "contract/go", "go", "test", "-count=1", ".", "-url", contractServer(t))
}

// agentsServer has a model that thinks and calls tools, as the scripts expect it.
func agentsServer(t *testing.T) string {
	f := thinker(t)
	f.cfg.MaxContext = 8192
	_, h := serve(t, f, Options{})
	return h.URL
}

func TestContractAgentsPython(t *testing.T) {
	python := os.Getenv("TRIT_TEST_PYTHON")
	if python == "" {
		python = "python3"
	}
	if exec.Command(python, "-c", "import openai, anthropic").Run() != nil {
		t.Skip("no Python with contract/python/requirements.txt (TRIT_TEST_PYTHON names one): agents are not tested")
	}
	runClient(t, "contract/python", python, "frameworks.py", agentsServer(t))
}

func TestContractAgentsNode(t *testing.T) {
	if _, err := os.Stat("contract/node/node_modules/@anthropic-ai/sdk"); err != nil {
		t.Skip("agents in Node are not tested: run npm ci in server/contract/node first")
	}
	runClient(t, "contract/node", "node", "frameworks.mjs", agentsServer(t))
}
