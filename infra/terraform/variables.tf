variable "name" {
  type        = string
  default     = "talklip"
  description = "Names the role, the policy and the image repository."
}

variable "bucket" {
  type        = string
  description = "Name of the bucket for results: the one in --output s3://<bucket>/<folder>."
}

variable "outputs" {
  type        = list(string)
  description = "Folders of the bucket that runs are given as --output, without slashes at the ends; \"\" is the bucket itself."

  validation {
    condition     = length(var.outputs) > 0 && alltrue([for o in var.outputs : trim(o, "/") == o])
    error_message = "Name at least one folder, without slashes at its ends."
  }
}

variable "source_buckets" {
  type        = list(string)
  default     = []
  description = "Other buckets from which manifests, videos, dubs and weights are read."
}

variable "kms_key_arn" {
  type        = string
  default     = ""
  description = "KMS key of the bucket; without one S3's own (AES256)."
}

variable "staged_days" {
  type        = number
  default     = 14
  description = "After so many days staged parts of runs that died are taken away. Longer than any run, and its next try, takes."
}

variable "oidc_provider_arn" {
  type        = string
  description = "The EKS cluster's IAM OpenID Connect provider."
}

variable "namespace" {
  type        = string
  default     = "talklip"
  description = "Kubernetes namespace of the Ray pods."
}

variable "service_accounts" {
  type        = list(string)
  default     = ["ray-head", "ray-worker"]
  description = "Kubernetes service accounts of the Ray pods, as in cluster/kuberay/access.yaml."
}
