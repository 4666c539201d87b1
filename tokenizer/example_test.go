package tokenizer_test

import (
	"fmt"

	"github.com/tritlm/trit/tokenizer"
)

func ExampleNewChars() {
	tok, err := tokenizer.NewChars([]rune("\n abcdehlorw"))
	if err != nil {
		panic(err)
	}
	ids := tok.Encode("hello world", tokenizer.EncodeOptions{})
	fmt.Println(ids)
	fmt.Println(tok.Decode(ids))
	fmt.Println(tok.Check("hello, world"))
	// Output:
	// [7 6 8 8 9 1 11 9 10 8 5]
	// hello world
	// tokenizer: character ',' at byte 5 is not in the vocabulary of 12 tokens
}

func ExampleTrainBPE() {
	tok, err := tokenizer.TrainBPE([]string{"the cat sat on the mat; the cat sat"}, 264, "<|end|>")
	if err != nil {
		panic(err)
	}
	for _, id := range tok.Encode("the cat<|end|>", tokenizer.EncodeOptions{ParseSpecial: true}) {
		fmt.Printf("%q ", tok.Token(id))
	}
	fmt.Println(tok.EOS())
	// Output: "the" "Ġcat" "<|end|>" [263]
}

func ExampleTokenizer_Chat() {
	tok := tokenizer.NewBytes()
	if err := tok.SetTemplate(`{% for m in messages %}{{ m.role | capitalize }}: {{ m.content | trim }}⏎{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}`); err != nil {
		panic(err)
	}
	text, err := tok.Chat([]tokenizer.Message{{Role: "user", Content: "Hello "}}, tokenizer.ChatOptions{AddGenerationPrompt: true})
	fmt.Printf("%q %v\n", text, err)
	// Output: "User: Hello⏎Assistant: " <nil>
}

func ExampleTokenizer_NewDecoder() {
	tok := tokenizer.NewBytes()
	d := tok.NewDecoder()
	for _, id := range tok.Encode("né", tokenizer.EncodeOptions{}) {
		fmt.Printf("%q ", d.Push(id))
	}
	fmt.Printf("%q\n", d.Flush())
	// Output: "n" "" "é" ""
}
