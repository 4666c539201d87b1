package server

import (
	"encoding/json"
	"slices"
	"sort"
	"strings"
)

// What is done with every member of the requests that clients of OpenAI, vLLM, llama.cpp, Ollama and Anthropic send.
// Nothing that bears on the answer is passed over in silence: it is honoured, or refused by name. What is harmless
// says nothing about the answer, or something that is so in any case.

// fields are the members of one request that are not honoured; those that are have a place in the request's struct.
type fields struct {
	honoured string             // names, for the reader; a test compares them with the struct
	harmless string             // names
	refused  map[string]refusal // by name
}

// refusal says why a member is refused, and with what values it says nothing.
type refusal struct {
	why   string
	plain []string // JSON; null always is
}

// check refuses what is to be, and returns the names that nobody knows.
func (f fields) check(body []byte) (unknown []string, err error) {
	if f.honoured == "" {
		return nil, nil
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &members) != nil {
		return nil, nil // read has said so
	}
	known := strings.Fields(f.honoured + " " + f.harmless)
	for name, v := range members {
		r, ok := f.refused[name]
		switch {
		case ok && string(v) != "null" && !slices.Contains(r.plain, compact(v)):
			if err == nil || name < asAPIError(err).Param { // the first, whatever the map's order
				err = invalid(name, "%s is not supported: %s", name, r.why)
			}
		case !ok && !slices.Contains(known, name):
			unknown = append(unknown, clip(name, 40))
		}
	}
	sort.Strings(unknown)
	return unknown, err
}

func compact(v json.RawMessage) string {
	var x any
	if json.Unmarshal(v, &x) != nil {
		return string(v)
	}
	b, _ := json.Marshal(x) // it was JSON
	return string(b)
}

// Members that say how to write, and that completions and chats of all these servers share.
const (
	writing = "model stream stream_options max_tokens min_tokens temperature top_p top_k min_p n stop stop_token_ids ignore_eos " +
		"presence_penalty frequency_penalty repetition_penalty repeat_penalty repeat_last_n logit_bias allowed_token_ids bad_words seed " +
		"skip_special_tokens response_format grammar json_schema guided_json guided_regex guided_choice guided_grammar structured_outputs"
	aside = "user service_tier safety_identifier prompt_cache_key prompt_cache_retention priority request_id cache_salt " +
		"kv_transfer_params guided_decoding_backend spaces_between_special_tokens cache_prompt id_slot n_keep n_discard " +
		"timings_per_token return_progress keep_alive mm_processor_kwargs data_parallel_rank"
)

// others are samplers and forms that this server does not have.
func others(more map[string]refusal) map[string]refusal {
	sampler := func(plain ...string) refusal { return refusal{"the server has no such sampler", plain} }
	all := map[string]refusal{
		"typical_p": sampler("1", "0"), "tfs_z": sampler("1"), "top_a": sampler("0"), "mirostat": sampler("0"), "mirostat_tau": {"the server has no such sampler", []string{"5"}},
		"mirostat_eta": sampler("0.1"), "dynatemp_range": sampler("0"), "dynatemp_exponent": sampler("1"), "xtc_probability": sampler("0"),
		"xtc_threshold": sampler("0.1"), "dry_multiplier": sampler("0"), "dry_base": sampler("1.75"), "dry_allowed_length": sampler("2"),
		"dry_penalty_last_n": sampler("-1"), "dry_sequence_breakers": sampler(`["\n",":","\"","*"]`, "[]"), "top_n_sigma": sampler("-1", "0"), "min_keep": sampler("0"),
		"adaptive_target": sampler("-1"), "adaptive_decay": sampler("0.9"), "samplers": {"the order of samplers is fixed", []string{"[]"}},
		"use_beam_search": {"the server samples, it does not search", []string{"false"}}, "length_penalty": {"it belongs to beam search", []string{"1"}},
		"truncate_prompt_tokens": {"a prompt that is too long is an error", nil}, "prompt_logprobs": {"use /v1/completions with echo and logprobs", []string{"false"}},
		"include_stop_str_in_output": {"a stop string is never part of the text", []string{"false"}}, "logits_processors": {"it would be code", []string{"[]"}},
		"structural_tag": {"use tools, or a grammar", nil}, "guided_whitespace_pattern": {"white space in JSON is the model's", nil},
		"return_tokens_as_token_ids": {"texts are text", []string{"false"}}, "return_token_ids": {"use /tokenize", []string{"false"}},
		"t_max_predict_ms": {"use max_tokens", []string{"0", "-1"}}, "n_indent": {"use a grammar", []string{"0"}}, "response_fields": {"answers are whole", []string{"[]"}},
		"lora": {"name an adapter as the model", []string{"[]"}}, "grammar_lazy": {"tools make their grammar themselves", []string{"false"}},
		"grammar_triggers": {"tools make their grammar themselves", []string{"[]"}}, "preserved_tokens": {"tools make their grammar themselves", []string{"[]"}},
		"vllm_xargs": {"they are for vLLM's own", []string{"{}"}}, "post_sampling_probs": {"logprobs are those of the model", []string{"false"}},
		"repetition_detection": {"use a penalty", nil}, "logprob_token_ids": {"use logprobs", []string{"[]"}},
	}
	for k, v := range more {
		all[k] = v
	}
	return all
}

var chatFields = fields{
	honoured: writing + " messages max_completion_tokens logprobs top_logprobs tools tool_choice parallel_tool_calls chat_template_kwargs " +
		"continue_final_message add_generation_prompt reasoning_effort reasoning include_reasoning enable_thinking thinking thinking_budget " +
		"thinking_budget_tokens thinking_token_budget reasoning_format n_predict",
	harmless: aside + " store metadata prediction verbosity reasoning_in_content add_special_tokens reasoning_budget_message",
	refused: others(map[string]refusal{
		"functions": {"use tools", []string{"[]"}}, "function_call": {"use tool_choice", []string{`"none"`, `"auto"`}},
		"audio": {"the model writes text", nil}, "modalities": {"the model writes text", []string{`["text"]`}}, "web_search_options": {"the server searches nothing", nil},
		"best_of": {"use /v1/completions", []string{"1"}}, "echo": {"the answer is only what is written", []string{"false"}},
		"documents": {"put them into a message", []string{"[]"}}, "chat_template": {"the model's own is used", nil},
		"n_probs": {"use top_logprobs", []string{"0"}}, "parse_tool_calls": {"calls are always told apart", []string{"true"}},
		"thinking_forced_open": {"the template says so", []string{"false"}}, "reasoning_budget": {"use thinking_budget_tokens", []string{"-1"}},
	}),
}

var completionFields = fields{
	honoured: writing + " prompt suffix echo logprobs best_of add_special_tokens n_predict",
	harmless: aside + " store metadata",
	refused: others(map[string]refusal{
		"prompt_embeds": {"prompts are text or tokens", nil}, "n_probs": {"use logprobs", []string{"0"}},
	}),
}

var embeddingFields = fields{
	honoured: "model input encoding_format dimensions truncate_prompt_tokens",
	harmless: "user priority request_id cache_salt add_special_tokens",
	refused: map[string]refusal{
		"normalize": {"vectors have length 1", []string{"true"}}, "embd_normalize": {"vectors have length 1", []string{"2"}},
		"messages": {"use input", nil}, "input_type": {"put the instruction into the input", nil}, "task": {"put the instruction into the input", nil},
	},
}
