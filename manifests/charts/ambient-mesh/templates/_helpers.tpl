{{- define "revision" -}}
{{- if ne .Values.revision "default" }}-{{ .Values.revision }}{{ end -}}
{{- end -}}
{{- define "platform" -}}
{{- if eq .Values.global.platform "gke" }}
{{- if eq (.Values.cni.binDir | toJson) "\"/opt/cni/bin\"" }}{{- $_ := set .Values.cni "binDir" ("{\"it\": \"/home/kubernetes/bin\"}" | fromJson).it }}{{ end }}
{{- if eq (.Values.components.resourceQuotas | toJson) "false" }}{{- $_ := set .Values.components "resourceQuotas" ("{\"it\": true}" | fromJson).it }}{{ end }}
{{- end }}
{{- if eq .Values.global.platform "k3d" }}
{{- if eq (.Values.cni.netDir | toJson) "\"/etc/cni/net.d\"" }}{{- $_ := set .Values.cni "netDir" ("{\"it\": \"/var/lib/rancher/k3s/agent/etc/cni/net.d\"}" | fromJson).it }}{{ end }}
{{- if eq (.Values.cni.binDir | toJson) "\"/opt/cni/bin\"" }}{{- $_ := set .Values.cni "binDir" ("{\"it\": \"/bin\"}" | fromJson).it }}{{ end }}
{{- end }}
{{- if eq .Values.global.platform "k3s" }}
{{- if eq (.Values.cni.netDir | toJson) "\"/etc/cni/net.d\"" }}{{- $_ := set .Values.cni "netDir" ("{\"it\": \"/var/lib/rancher/k3s/agent/etc/cni/net.d\"}" | fromJson).it }}{{ end }}
{{- if eq (.Values.cni.binDir | toJson) "\"/opt/cni/bin\"" }}{{- $_ := set .Values.cni "binDir" ("{\"it\": \"/var/lib/rancher/k3s/data/cni\"}" | fromJson).it }}{{ end }}
{{- end }}
{{- if eq .Values.global.platform "microk8s" }}
{{- if eq (.Values.cni.netDir | toJson) "\"/etc/cni/net.d\"" }}{{- $_ := set .Values.cni "netDir" ("{\"it\": \"/var/snap/microk8s/current/args/cni-network\"}" | fromJson).it }}{{ end }}
{{- if eq (.Values.cni.binDir | toJson) "\"/opt/cni/bin\"" }}{{- $_ := set .Values.cni "binDir" ("{\"it\": \"/var/snap/microk8s/current/opt/cni/bin\"}" | fromJson).it }}{{ end }}
{{- end }}
{{- if eq .Values.global.platform "minikube" }}
{{- if eq (.Values.cni.netnsDir | toJson) "\"/var/run/netns\"" }}{{- $_ := set .Values.cni "netnsDir" ("{\"it\": \"/var/run/docker/netns\"}" | fromJson).it }}{{ end }}
{{- end }}
{{- if eq .Values.global.platform "openshift" }}
{{- if eq (.Values.cni.netDir | toJson) "\"/etc/cni/net.d\"" }}{{- $_ := set .Values.cni "netDir" ("{\"it\": \"/etc/cni/multus/net.d\"}" | fromJson).it }}{{ end }}
{{- if eq (.Values.cni.binDir | toJson) "\"/opt/cni/bin\"" }}{{- $_ := set .Values.cni "binDir" ("{\"it\": \"/var/lib/cni/bin\"}" | fromJson).it }}{{ end }}
{{- if eq (.Values.cni.seLinuxOptions | toJson) "{}" }}{{- $_ := set .Values.cni "seLinuxOptions" ("{\"it\": {\"type\": \"spc_t\"}}" | fromJson).it }}{{ end }}
{{- if eq (.Values.components.securityContextConstraints | toJson) "false" }}{{- $_ := set .Values.components "securityContextConstraints" ("{\"it\": true}" | fromJson).it }}{{ end }}
{{- end }}
{{- end -}}
