// Command check holds Kubernetes manifests against Kubernetes' own types: unknown, misspelt and repeated fields and
// values of the wrong type are errors.
//
//	cd deploy/check && go run . ../kubernetes/*.yaml
//
// It is a module of its own, so that nobody who builds trit needs Kubernetes' packages.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

func main() {
	bad := len(os.Args) < 2
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, name := range os.Args[1:] {
		f, err := os.Open(name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for r := yaml.NewYAMLReader(bufio.NewReader(f)); ; {
			doc, err := r.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err == nil {
				var kind fmt.Stringer
				_, kind, err = decoder.Decode(doc, nil, nil)
				if err == nil {
					fmt.Printf("%s: %v is valid\n", name, kind)
				}
			}
			if err != nil {
				fmt.Printf("%s: %v\n", name, err)
				bad = true
				break
			}
		}
		f.Close()
	}
	if bad {
		os.Exit(1)
	}
}
