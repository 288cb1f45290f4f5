{{/* The flags of `picker serve`, in the order that `picker serve --help` has them. */}}
{{- define "picker.args" -}}
- --grpc-port=9002
- --grpc-health-port=9003
- --metrics-port=9090
{{- range include "picker.pools" . | fromJsonArray }}
- {{ printf "--pool-name=%s" . | quote }}
{{- end }}
{{- with .Values.poolSelector }}
- {{ printf "--pool-selector=%s" . | quote }}
{{- end }}
{{- with .Values.endpointSelector }}
- {{ printf "--endpoint-selector=%s" . | quote }}
- --endpoint-target-ports={{ join "," $.Values.targetPorts }}
{{- end }}
{{- if ne .Values.poolGroup "inference.networking.k8s.io" }}
- --pool-group={{ .Values.poolGroup }}
{{- end }}
- --secure-serving={{ include "picker.secure" . | default "false" }}
{{- if .Values.tls.secretName }}
- --cert-path=/etc/picker/tls
{{- end }}
{{- if .Values.tls.clientCaConfigMap }}
- --client-ca-file=/etc/picker/client-ca/ca.crt
{{- end }}
{{- if or .Values.tls.secretName .Values.tls.clientCaConfigMap .Values.metrics.tlsSecretName }}
- --enable-cert-reload=true
{{- end }}
{{- if include "picker.standalone" . }}
- --health-checking=true
{{- end }}
{{- if or .Values.config .Values.existingConfigMap }}
- --config-file=/etc/picker/config/config.yaml
{{- end }}
{{- range $pool, $_ := .Values.poolConfigs }}
- {{ printf "--pool-config-file=%s=/etc/picker/config/pool.%s.yaml" $pool ($pool | replace "/" ".") | quote }}
{{- end }}
- --drain-timeout={{ .Values.drainTimeoutSeconds }}s
{{- if include "picker.leads" . }}
- --ha-enable-leader-election=true
- --leader-election-lease-name={{ include "picker.leaseName" . }}
{{- end }}
- --metrics-endpoint-auth={{ .Values.metrics.auth }}
{{- if .Values.metrics.tlsSecretName }}
- --metrics-cert-dir=/etc/picker/metrics-tls
{{- end }}
{{- if .Values.bodyBasedRouter.enabled }}
- --bbr-port=9004
{{- range .Values.bodyBasedRouter.plugins }}
- {{ printf "--bbr-plugin=%s" . | quote }}
{{- end }}
{{- end }}
- --v={{ .Values.log.verbosity }}
- --zap-encoder={{ .Values.log.encoder }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}
