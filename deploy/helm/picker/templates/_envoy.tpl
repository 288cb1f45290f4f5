{{/* The Envoy beside picker: its container, and its whole configuration. */}}

{{/* A side-car in Kubernetes' sense: there before picker, and until picker has drained. */}}
{{- define "picker.envoyContainer" -}}
- name: envoy
  image: {{ printf "%s:%s" .Values.standalone.image.repository .Values.standalone.image.tag | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  restartPolicy: Always
  args: [--config-path, /etc/envoy/envoy.yaml, --disable-hot-restart, --log-level, warning]
  ports:
    - {name: http, containerPort: {{ .Values.standalone.port }}, protocol: TCP}
    - {name: envoy-ready, containerPort: 19001, protocol: TCP}
  startupProbe:
    httpGet: {path: /ready, port: envoy-ready}
    periodSeconds: 1
    timeoutSeconds: 2
    failureThreshold: 60
  livenessProbe:
    httpGet: {path: /ready, port: envoy-ready}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  readinessProbe:
    httpGet: {path: /ready, port: envoy-ready}
    periodSeconds: 1
    timeoutSeconds: 2
    failureThreshold: 3
  securityContext:
    {{- include "picker.containerSecurity" . | nindent 4 }}
  resources:
    {{- toYaml .Values.standalone.resources | nindent 4 }}
  volumeMounts:
    - {name: envoy, mountPath: /etc/envoy, readOnly: true}
{{- end -}}

{{- define "picker.envoyConfig" -}}
admin:
  address: {socket_address: {address: 127.0.0.1, port_value: 19000}}
overload_manager:
  resource_monitors:
    - name: envoy.resource_monitors.global_downstream_max_connections
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
        max_active_downstream_connections: 40000
static_resources:
  listeners:
    - name: clients
      address: {socket_address: {{ include "picker.envoyAddress" (list . .Values.standalone.port) }}}
      per_connection_buffer_limit_bytes: {{ int .Values.standalone.bufferLimitBytes }}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: clients
                use_remote_address: true   # who calls is who connects, whatever X-Forwarded-For says
                # ORIGINAL_DST goes wherever this header says, so a client's copy must not come in.
                early_header_mutation_extensions:
                  - name: envoy.http.early_header_mutation.header_mutation
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
                      mutations:
                        - remove: x-gateway-destination-endpoint
                common_http_protocol_options:
                  headers_with_underscores_action: REJECT_REQUEST
                http2_protocol_options:
                  max_concurrent_streams: 100
                  initial_stream_window_size: 65536
                  initial_connection_window_size: 1048576
                upgrade_configs:
                  - upgrade_type: websocket
                route_config:
                  virtual_hosts:
                    - name: model-servers
                      domains: ["*"]
                      routes:
                        - match: {prefix: /}
                          # An answer lasts as long as the model talks; no retries: they send bodies with trailers twice.
                          route: {cluster: picked, timeout: 0s, idle_timeout: {{ .Values.standalone.idleTimeout }}}
                http_filters:
                  - name: envoy.filters.http.ext_proc
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
                      grpc_service:
                        envoy_grpc: {cluster_name: picker, authority: {{ include "picker.authority" . }}}
                        timeout: 10s
                      failure_mode_allow: false   # without a pick ORIGINAL_DST has nowhere to go
                      message_timeout: 1000s
                      processing_mode:
                        request_header_mode: SEND
                        request_body_mode: FULL_DUPLEX_STREAMED
                        request_trailer_mode: SEND
                        response_header_mode: SEND
                        response_body_mode: FULL_DUPLEX_STREAMED
                        response_trailer_mode: SEND
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                      suppress_envoy_headers: true
    - name: ready
      address: {socket_address: {{ include "picker.envoyAddress" (list . 19001) }}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: ready
                route_config:
                  virtual_hosts:
                    - name: admin
                      domains: ["*"]
                      routes:
                        - match: {path: /ready}
                          route: {cluster: admin}
                        - match: {path: /stats/prometheus}
                          route: {cluster: admin}
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
    - name: picked
      type: ORIGINAL_DST
      lb_policy: CLUSTER_PROVIDED
      connect_timeout: {{ .Values.standalone.connectTimeout }}   # a pod that is gone must not hold requests
      original_dst_lb_config: {use_http_header: true, http_header_name: x-gateway-destination-endpoint}
      circuit_breakers:
        thresholds: [{{ include "picker.envoyLimits" . }}]
    - name: picker
      type: STATIC
      lb_policy: LEAST_REQUEST
      connect_timeout: 1s
      circuit_breakers:   # every request under way holds a stream; the default of 1024 fails the rest
        thresholds: [{{ include "picker.envoyLimits" . }}]
      common_lb_config: {healthy_panic_threshold: {value: 0}}
      health_checks:      # in full duplex a picker that hangs would hold requests: no timeout of ext_proc counts there
        - timeout: 1s
          interval: 1s
          no_traffic_interval: 1s
          unhealthy_threshold: 3
          healthy_threshold: 1
          grpc_health_check: {service_name: envoy.service.ext_proc.v3.ExternalProcessor}
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config:
            http2_protocol_options: {initial_stream_window_size: 65536, initial_connection_window_size: 1048576}
      load_assignment:
        cluster_name: picker
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9002}}}
    - name: admin
      type: STATIC
      connect_timeout: 1s
      load_assignment:
        cluster_name: admin
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 19000}}}
{{- end -}}

{{- define "picker.envoyAddress" -}}
{{- $address := (first .).Values.standalone.bindAddress -}}
{address: {{ $address | quote }}, port_value: {{ last . }}{{ if eq $address "::" }}, ipv4_compat: true{{ end }}}
{{- end -}}

{{- define "picker.authority" -}}{{ include "picker.fullname" . }}.{{ .Release.Namespace }}{{- end -}}

{{- define "picker.envoyLimits" -}}
{max_connections: 40000, max_pending_requests: 40000, max_requests: 40000}
{{- end -}}
