{{/* What a schema cannot say. Each message names the values to change. */}}
{{- define "picker.validate" -}}
{{- $values := .Values -}}
{{- $sources := list -}}
{{- if $values.inferencePool.create }}{{ $sources = append $sources "inferencePool.create" }}{{ end -}}
{{- if $values.pools }}{{ $sources = append $sources "pools" }}{{ end -}}
{{- if $values.poolSelector }}{{ $sources = append $sources "poolSelector" }}{{ end -}}
{{- if $values.endpointSelector }}{{ $sources = append $sources "endpointSelector" }}{{ end -}}
{{- if ne (len $sources) 1 -}}
{{- fail (printf "picker: say what is served with one of inferencePool.create, pools, poolSelector, endpointSelector; given: %s" (join ", " $sources | default "none")) -}}
{{- end -}}
{{- if and $values.inferencePool.create (not $values.inferencePool.matchLabels) -}}
{{- fail "picker: inferencePool.create needs inferencePool.matchLabels, the labels of the model servers' pods" -}}
{{- end -}}
{{- if and $values.inferencePool.create (ne $values.poolGroup "inference.networking.k8s.io") -}}
{{- fail "picker: inferencePool.create makes an inference.networking.k8s.io/v1 InferencePool; serve one of the retired group with pools" -}}
{{- end -}}
{{- if and (eq $values.gateway "standalone") $values.inferencePool.create -}}
{{- fail "picker: gateway standalone reads no InferencePool endpointPickerRef; use endpointSelector, or pools for one that is there" -}}
{{- end -}}
{{- if and (eq $values.gateway "standalone") (or (gt (len $values.pools) 1) $values.poolSelector) -}}
{{- fail "picker: the Envoy of gateway standalone has one route; give one pool, or endpointSelector" -}}
{{- end -}}
{{- if and (eq $values.gateway "standalone") $values.bodyBasedRouter.enabled -}}
{{- fail "picker: gateway standalone has one route, so there is nothing for bodyBasedRouter to choose" -}}
{{- end -}}
{{- if and (eq $values.gateway "standalone") (or $values.tls.secretName $values.tls.clientCaConfigMap) -}}
{{- fail "picker: with gateway standalone Envoy calls picker inside the pod, in plaintext; leave tls.secretName and tls.clientCaConfigMap empty" -}}
{{- end -}}
{{- if and $values.envoyGateway.bufferLimit (not $values.envoyGateway.gatewayName) -}}
{{- fail "picker: envoyGateway.bufferLimit needs envoyGateway.gatewayName, the Gateway it is for" -}}
{{- end -}}
{{- if and (eq $values.gateway "gke") $values.bodyBasedRouter.enabled (not $values.gke.gatewayName) -}}
{{- fail "picker: bodyBasedRouter with gateway gke needs gke.gatewayName, the Gateway it extends" -}}
{{- end -}}
{{- if and (or $values.config $values.poolConfigs) $values.existingConfigMap -}}
{{- fail "picker: config, poolConfigs and existingConfigMap exclude each other; give one" -}}
{{- end -}}
{{- if and $values.endpointSelector $values.poolConfigs -}}
{{- fail "picker: poolConfigs is of InferencePools; with endpointSelector there is none, so give config" -}}
{{- end -}}
{{- $pools := include "picker.pools" . | fromJsonArray -}}
{{- range $pool, $_ := $values.poolConfigs -}}
{{- if and $pools (not (has $pool $pools)) -}}
{{- fail (printf "picker: poolConfigs is of %s, which is none of pools: %s" $pool (join ", " $pools)) -}}
{{- end -}}
{{- end -}}
{{- if and (not $values.tls.enabled) (or $values.tls.secretName $values.tls.clientCaConfigMap) -}}
{{- fail "picker: tls.secretName and tls.clientCaConfigMap need tls.enabled" -}}
{{- end -}}
{{- if and $values.metrics.readers (not $values.metrics.auth) -}}
{{- fail "picker: metrics.readers says who may read where metrics.auth asks; it is off" -}}
{{- end -}}
{{- end -}}
