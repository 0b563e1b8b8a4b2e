output "role_arn" {
  value       = aws_iam_role.runs.arn
  description = "For the annotation eks.amazonaws.com/role-arn of the service account."
}

output "outputs" {
  value       = [for o in var.outputs : o == "" ? "s3://${var.bucket}" : "s3://${var.bucket}/${o}"]
  description = "What runs are given as --output."
}

output "repository_url" {
  value       = aws_ecr_repository.image.repository_url
  description = "Where the image is pushed."
}
