// Package contract runs OpenAI's own Go client against a server: go test . -url URL
package contract

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/shared"
)

var url = flag.String("url", "", "server to test, such as http://localhost:8080")

func TestContract(t *testing.T) {
	if *url == "" {
		t.Skip("no -url")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := openai.NewClient(option.WithBaseURL(*url+"/v1"), option.WithAPIKey("none"), option.WithMaxRetries(0))
	models, err := c.Models.List(ctx)
	if err != nil || len(models.Data) == 0 {
		t.Fatal(models, err)
	}
	model := models.Data[0].ID
	chat := openai.ChatCompletionNewParams{
		Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hello")},
		Temperature: openai.Float(0), MaxTokens: openai.Int(20),
	}

	t.Run("chat and stream", func(t *testing.T) {
		whole, err := c.Chat.Completions.New(ctx, chat)
		if err != nil {
			t.Fatal(err)
		}
		s := c.Chat.Completions.NewStreaming(ctx, chat)
		var acc openai.ChatCompletionAccumulator
		for s.Next() {
			if !acc.AddChunk(s.Current()) {
				t.Error("chunks do not add up")
			}
		}
		if s.Err() != nil || acc.Choices[0].Message.Content != whole.Choices[0].Message.Content {
			t.Errorf("%v: %q, %q", s.Err(), acc.Choices[0].Message.Content, whole.Choices[0].Message.Content)
		}
	})
	t.Run("completions", func(t *testing.T) {
		r, err := c.Completions.New(ctx, openai.CompletionNewParams{
			Model: openai.CompletionNewParamsModel(model), Prompt: openai.CompletionNewParamsPromptUnion{OfArrayOfTokens: []int64{1, 2, 3}},
			Echo: openai.Bool(true), Logprobs: openai.Int(1), MaxTokens: openai.Int(1), Temperature: openai.Float(0),
		})
		if err != nil || len(r.Choices[0].Logprobs.TokenLogprobs) != 4 {
			t.Fatal(r, err)
		}
	})
	t.Run("embeddings", func(t *testing.T) {
		r, err := c.Embeddings.New(ctx, openai.EmbeddingNewParams{Model: model, Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a", "b"}}})
		if err != nil || len(r.Data) != 2 || len(r.Data[0].Embedding) == 0 {
			t.Fatal(r, err)
		}
	})
	t.Run("tools", func(t *testing.T) {
		p := chat
		p.MaxTokens = openai.Int(200)
		p.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
			Name:       "add",
			Parameters: shared.FunctionParameters{"type": "object", "properties": map[string]any{"a": map[string]any{"type": "integer"}}, "required": []string{"a"}, "additionalProperties": false},
		})}
		p.ToolChoice = openai.ChatCompletionToolChoiceOptionUnionParam{OfAuto: openai.String("required")}
		r, err := c.Chat.Completions.New(ctx, p)
		skipUnspellable(t, err)
		if err != nil || len(r.Choices[0].Message.ToolCalls) == 0 {
			t.Fatal(r, err)
		}
		var args struct{ A *int }
		if err := json.Unmarshal([]byte(r.Choices[0].Message.ToolCalls[0].Function.Arguments), &args); err != nil || args.A == nil {
			t.Error(r.RawJSON(), err)
		}
		p.Messages = append(p.Messages, r.Choices[0].Message.ToParam(), openai.ToolMessage("7", r.Choices[0].Message.ToolCalls[0].ID))
		p.ToolChoice = openai.ChatCompletionToolChoiceOptionUnionParam{OfAuto: openai.String("auto")}
		if _, err := c.Chat.Completions.New(ctx, p); err != nil {
			t.Error(err)
		}
	})
	t.Run("strict schema", func(t *testing.T) {
		p := chat
		p.MaxTokens = openai.Int(100)
		p.ResponseFormat = openai.ChatCompletionNewParamsResponseFormatUnion{OfJSONSchema: &shared.ResponseFormatJSONSchemaParam{JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{
			Name: "x", Strict: openai.Bool(true),
			Schema: map[string]any{"type": "object", "properties": map[string]any{"ok": map[string]any{"type": "boolean"}}, "required": []string{"ok"}, "additionalProperties": false},
		}}}
		r, err := c.Chat.Completions.New(ctx, p)
		skipUnspellable(t, err)
		if err != nil {
			t.Fatal(err)
		}
		var v struct{ OK *bool }
		if err := json.Unmarshal([]byte(r.Choices[0].Message.Content), &v); err != nil || v.OK == nil {
			t.Error(r.Choices[0].Message.Content, err)
		}
	})
	t.Run("errors", func(t *testing.T) {
		p := chat
		p.TopP = openai.Float(7)
		_, err := c.Chat.Completions.New(ctx, p)
		var e *openai.Error
		if !errors.As(err, &e) || e.StatusCode != 400 || e.Param != "top_p" || e.Message == "" {
			t.Error(err)
		}
	})
}

// skipUnspellable skips what a model of a few characters cannot do.
func skipUnspellable(t *testing.T, err error) {
	var api *openai.Error
	if errors.As(err, &api) && api.Code == "invalid_grammar" && strings.Contains(api.Message, "vocabulary") {
		t.Skip("this model's vocabulary cannot spell JSON")
	}
}
